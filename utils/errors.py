"""The one exception that is the user's to fix."""


class InputError(Exception):
    """A file, flag or machine is not what was asked for.

    The message is one line: what is wrong with which file or flag, what was expected, what to
    do. Scripts print it and exit with code 1; anything else that is raised is a bug of ours and
    keeps its traceback.
    """
