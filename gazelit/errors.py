"""Exceptions that mean "your input, not our code", and "this machine is taken away"."""

#: What to do where processes cannot share memory.
NO_SHARED_MEMORY = (
    "a process found no shared memory (/dev/shm is missing, full or too small); start the container with "
    "--shm-size=2g, or do without further processes (--data.loader.num_workers=0, elsewhere --workers=1), and run the "
    "command again (a training resumes from its last.ckpt)"
)


class InputError(ValueError):
    """A file, option or checkpoint the user gave cannot be used.

    The message names the file, row or field and says what to do; it never contains cell contents of
    patient data. The command line prints it as one line without a traceback.
    """


def first_line(error: BaseException) -> str:
    """What an error says, without the trace of C++ that torch adds to it; its name if it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


class Terminated(BaseException):
    """SIGTERM has come: nothing is begun any more, and the process ends with 143.

    It is no ``Exception``, so that handlers of mistakes do not catch it.
    """
