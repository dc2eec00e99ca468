"""Exceptions that mean "your input, not our code", and "this machine is taken away"."""


class InputError(ValueError):
    """A file, option or checkpoint the user gave cannot be used.

    The message names the file, row or field and says what to do; it never contains cell contents of
    patient data. The command line prints it as one line without a traceback.
    """


class Terminated(BaseException):
    """SIGTERM has come: nothing is begun any more, and the process ends with 143.

    It is no ``Exception``, so that nobody who handles a mistake takes it for one.
    """
