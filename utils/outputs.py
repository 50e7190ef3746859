"""What a script wrote: no output replaces a file that the same script did not write.

    with writing_as("visual"):
        check_replaceable("runs/visual/a.jpg")     # InputError if somebody else's file is there

Each output carries script and SHA-256 as an extended attribute. A file without one, or changed
since, is somebody's work. Where the system keeps no attributes (NFS 3, FAT, Windows, macOS) the
folder gets a record `.<script>.sha256` instead, in the format of sha256sum.
`utils.files.atomic_path` asks here before it moves an output to its place.
"""

import contextlib
import hashlib
import os
import re
from pathlib import Path
from typing import Dict, Iterable, Iterator, NamedTuple, Set, Union

from utils.errors import InputError

ATTRIBUTE = "user.yolo_pose.output"
MAX_RECORD = 256 << 20  # bytes; a line an output


class Writer(NamedTuple):
    """Who writes in this process."""

    script: str = ""  # empty: a program that uses the library; its files are its own business
    overwrite: bool = False  # the user allows to replace whatever is there


_writer = Writer()
_records: Dict[Path, Dict[str, Set[str]]] = {}  # record file -> name -> digests


def writer() -> Writer:
    """Who writes in this process; a process that it starts writes under the same name."""
    return _writer


@contextlib.contextmanager
def writing_as(script: str, *, overwrite: bool = False) -> Iterator[None]:
    """Outputs written inside are those of `script`.

    Args: overwrite: replace whatever is there.
    """
    before = _writer
    adopt(Writer(script, overwrite))
    try:
        yield
    finally:
        adopt(before)


def adopt(new: Writer) -> None:
    """Write as `new` from now on; for a process that was started."""
    global _writer
    _writer = new


def check_replaceable(path: Union[str, Path], new: str = "") -> None:
    """Raise InputError if `path` is a file that this script did not write, or changed since.

    Args: new: digest of what is to be written; a file with that content loses nothing.
    """
    path = Path(path)
    if _writer.overwrite or not _writer.script or not os.path.lexists(str(path)):
        return
    if path.is_file():
        found = digest_of(path)
        if found == new or found == _marked(path):
            return
        if found in _known(path) or found in _known(path, anew=True):
            return
    raise InputError(
        "%s: is there already, and is no unchanged output of this script; move it, name another "
        "place, or let `overwrite` replace it" % path
    )


def check_all_replaceable(paths: Iterable[Union[str, Path]]) -> None:
    """check_replaceable of many, before the first is written; says how many are in the way."""
    first, count = None, 0
    for path in paths:
        try:
            check_replaceable(path)
        except InputError as e:
            first, count = first or e, count + 1
    if first is not None:
        more = " (and %d more files)" % (count - 1) if count > 1 else ""
        raise InputError(str(first) + more)


def mark(tmp: Union[str, Path], path: Union[str, Path], digest: str) -> None:
    """Remember that this script wrote `tmp`, which is about to become `path`."""
    path = Path(path)
    if not _writer.script:
        return
    try:
        os.setxattr(str(tmp), ATTRIBUTE, ("%s %s" % (_writer.script, digest)).encode())
        return
    except (AttributeError, OSError):
        pass  # no attributes here
    known = _known(path)
    if digest in known and _record_file(path).is_file():
        return
    known.add(digest)
    with open(str(_record_file(path)), "ab") as file:
        file.write(_line(digest, path.name))


def digest_of(path: Union[str, Path]) -> str:
    """SHA-256 of a file, 64 hexadecimal digits."""
    digest = hashlib.sha256()
    with open(str(path), "rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def _marked(path: Path) -> str:
    """Digest under which this script has written `path`, empty if it has not."""
    try:
        script, digest = os.getxattr(str(path), ATTRIBUTE).decode("utf-8", "replace").split(" ")
    except (AttributeError, OSError, ValueError):
        return ""
    return digest if script == _writer.script else ""


def _record_file(path: Path) -> Path:
    return path.parent / (".%s.sha256" % _writer.script)


def _known(path: Path, anew: bool = False) -> Set[str]:
    """Digests under which this script has written `path`.

    Args: anew: read the record even if that was done before; another process may have added to it.
    """
    file = _record_file(path)
    if anew or file not in _records:
        _records[file] = _read(file)
    return _records[file].setdefault(path.name, set())


def _read(file: Path) -> Dict[str, Set[str]]:
    found: Dict[str, Set[str]] = {}
    if file.is_file() and file.stat().st_size <= MAX_RECORD:
        for line in file.read_bytes().split(b"\n"):
            name = line[66:]
            if line[:1] == b"\\":
                line, name = line[1:], line[67:]
                name = re.sub(rb"\\(.)", lambda m: {b"n": b"\n"}.get(m[1], m[1]), name)
            if line[64:66] == b"  ":
                found.setdefault(os.fsdecode(name), set()).add(line[:64].decode("ascii", "replace"))
    return found


def _line(digest: str, name: str) -> bytes:
    """As sha256sum writes it: a name with a backslash or newline is escaped."""
    raw = os.fsencode(name)
    escaped = raw.replace(b"\\", b"\\\\").replace(b"\n", b"\\n")
    mark = b"\\" if escaped != raw else b""
    return mark + digest.encode() + b"  " + escaped + b"\n"
