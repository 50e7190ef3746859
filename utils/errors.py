"""The one exception that is the user's to fix, and other libraries' on one line."""


class InputError(Exception):
    """A file, flag or machine is not what was asked for.

    The message is one line: what is wrong with which file or flag, what was expected, what to
    do. Scripts print it and exit with code 1; anything else that is raised is a bug of ours and
    keeps its traceback.
    """


def one_line(error: BaseException, limit: int = 300) -> str:
    """Kind and first words of an exception, without line breaks."""
    text = " ".join(str(error).split())
    text = text if len(text) <= limit else text[:limit] + " ..."
    return "%s: %s" % (type(error).__name__, text)
