"""The exception and the warning that are the user's to act on; errors on one line."""

import re
from typing import Mapping, Tuple

# C0, DEL, C1; line separators; what turns the direction of text; half characters
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


class InputError(Exception):
    """A file, parameter or machine is not what was asked for.

    The message is one line: what is wrong with which file or parameter, what was expected, what to
    do. Names of parameters stand in backticks; scripts make flags of them (utils/cli.py), print
    the line and exit with code 1. Anything else that is raised is a bug: exit code 70.
    """


class InputWarning(UserWarning):
    """Something the user should know and may want to change; worded as an InputError."""


def check_limits(config: object, limits: Mapping[str, Tuple[float, float]]) -> None:
    """Raise InputError for a field of a config below or above its limits; None is no value.

    Args: limits: field -> (lowest, highest).
    """
    for name, (low, high) in limits.items():
        value = getattr(config, name)
        if value is not None and not low <= value <= high:  # NaN is not, either
            raise InputError("`%s` %g: expected %g to %g" % (name, value, low, high))


def one_line(error: BaseException, limit: int = 300) -> str:
    """Kind and first words of an exception, without line breaks."""
    text = " ".join(str(error).split())
    text = text if len(text) <= limit else text[:limit] + " ..."
    return "%s: %s" % (type(error).__name__, text)


def printable(text: str, keep: str = "") -> str:
    """Text on one line, control characters as `\\x1b`. Args: keep: characters that stay."""

    def escape(match: "re.Match[str]") -> str:
        char = match.group()
        return char if char in keep else char.encode("unicode_escape").decode("ascii")

    return _CONTROL.sub(escape, text)
