"""The one exception that means "your input, not our code"."""


class InputError(ValueError):
    """A file, option or checkpoint the user gave cannot be used.

    The message names the file, row or field and says what to do; it never contains cell contents of
    patient data. The command line prints it as one line without a traceback.
    """
