"""Writing files whole or not at all, and run folders that never collide."""

import contextlib
import hashlib
import os
import re
from pathlib import Path
from typing import Any, Iterator, List, Sequence, Set, Union

from utils import outputs
from utils.errors import InputError

TMP = re.compile(r"\.tmp[0-9a-f]{12}(\.[^.]*)?$")
_swept: Set[str] = set()  # folders
_open: Set[Path] = set()  # temporary files of this process


@contextlib.contextmanager
def atomic_path(path: Union[str, Path], *, replace: bool = False) -> Iterator[Path]:
    """Yield a temporary path beside `path`; move it there on success, delete it on failure.

    The temporary name keeps the suffix, so writers that look at it (OpenCV, torch) work.
    Missing parent folders are made. What processes that were killed left there is removed.

    Args: replace: whatever is there; else only what this script wrote, see utils/outputs.py.

    Raises InputError if the folder cannot be written, or a file of somebody else is there.
    """
    path = Path(path)
    made = _make_folder(path)
    _sweep(path.parent)
    # Short: the name itself may use up the length a file system allows. Random: process numbers
    # say nothing where several machines or containers write into one folder.
    tmp = path.with_name(".tmp%s%s" % (os.urandom(6).hex(), path.suffix))
    try:
        with _held(tmp):
            yield tmp
            if not replace:
                digest = outputs.digest_of(tmp)
                outputs.check_replaceable(path, digest)
                outputs.mark(tmp, path, digest)
            os.replace(str(tmp), str(path))
        made = []
    except OSError as e:  # disk full, quota, a file system that takes no files
        raise InputError("%s: cannot be written (%s)" % (path, e.strerror or e)) from e
    finally:
        remove_temporary(tmp)
        _remove_folders(made)


def remove_temporary(*paths: Path) -> None:
    """Delete temporary files, without paths all of this process."""
    for tmp in paths or tuple(_open):
        _open.discard(tmp)
        with contextlib.suppress(OSError):
            tmp.unlink()


@contextlib.contextmanager
def _held(tmp: Path) -> Iterator[None]:
    """Make a temporary file, and keep it locked: a lock ends with its process, however it ends."""
    _open.add(tmp)
    with open(str(tmp), "wb") as file:
        if not _lock(file):
            file.close()  # Windows moves no file that is open
        yield


def _lock(file: Any) -> bool:
    """Whether the lock could be had; False also where a system or file system knows none."""
    try:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (ImportError, OSError):
        return False
    return True


def _sweep(folder: Path) -> None:
    """Remove the temporary files of dead processes: those that nobody holds. Once a process."""
    if str(folder) in _swept:
        return
    _swept.add(str(folder))
    for name in os.listdir(str(folder)):
        tmp = folder / name
        if TMP.match(name) and tmp not in _open and tmp.is_file():
            with contextlib.suppress(OSError), open(str(tmp), "rb+") as file:
                if _lock(file):
                    tmp.unlink()


def check_output(path: Union[str, Path]) -> None:
    """check_writable, and raise InputError if a file is there that this script did not write."""
    check_writable(path)
    outputs.check_replaceable(path)


def check_writable(path: Union[str, Path]) -> None:
    """Raise InputError if a file cannot be written; for what takes minutes before it writes.

    Its folder is made for that, and removed again, so that a later error leaves nothing.
    """
    _remove_folders(_make_folder(Path(path)))


def _make_folder(path: Path) -> List[Path]:
    """Make the folder of a file, and return what was made, the deepest first.

    Raises InputError if the file cannot be written there.
    """
    folder, missing = path.parent, []
    try:
        if not folder.is_dir():
            missing = [p for p in (folder, *folder.parents) if not os.path.lexists(str(p))]
            folder.mkdir(parents=True, exist_ok=True)
        if not os.access(str(folder), os.W_OK):
            raise PermissionError(13, "Permission denied")
    except OSError as e:
        _remove_folders(missing)
        raise InputError("%s: cannot write into this folder (%s)" % (folder, e.strerror)) from e
    if path.is_dir():
        raise InputError("%s: is a folder, expected the name of a file" % path)
    return missing


def _remove_folders(folders: Sequence[Path]) -> None:
    """Remove folders, the deepest first, unless another process has put something there."""
    for folder in folders:
        with contextlib.suppress(OSError):
            folder.rmdir()


def walk_files(folder: Union[str, Path]) -> List[str]:
    """Paths of the files in a folder and below it, sorted; also in linked folders.

    Each folder counts once, under its own name rather than a link's, so a link that leads back up
    ends nowhere. Hidden files are left out: macOS puts a `._a.jpg` beside an a.jpg.
    """
    found: List[str] = []
    seen: Set[str] = set()
    todo = [str(folder)]
    while todo:
        for directory, folders, names in os.walk(todo.pop(0)):
            real = os.path.realpath(directory)
            if real in seen:
                folders[:] = []
                continue
            seen.add(real)
            found += [os.path.join(directory, name) for name in names if name[0] != "."]
            # os.walk leaves links alone; they come last
            paths = (os.path.join(directory, name) for name in sorted(folders))
            todo += [path for path in paths if os.path.islink(path)]
    return sorted(found)


def check_utf8(name: str) -> None:
    """Raise InputError for a file name that no list file or JSON can hold."""
    try:
        name.encode("utf-8")
    except UnicodeEncodeError as e:
        shown = name.encode("utf-8", "backslashreplace").decode()
        raise InputError("%s: a file name that is not UTF-8; rename the file" % shown) from e


def check_line(name: str) -> None:
    """Raise InputError for a file name that no line of a list file can hold."""
    check_utf8(name)
    if "\n" in name or "\r" in name or name != name.strip(" \t"):
        raise InputError(
            "%s: a line of a list file holds no line break, and no blank at an end; rename the file"
            % name
        )


def increment_dir(project: Union[str, Path], name: str, exist_ok: bool = False) -> Path:
    """Create and return `project/name`, or `name2`, `name3`, ... if that exists.

    Raises InputError if the folder cannot be made or written.
    """
    project = Path(project)
    try:
        project.mkdir(parents=True, exist_ok=True)
        _sweep_runs(project, name)
        if exist_ok:
            folder = project / name
            folder.mkdir(exist_ok=True)
        else:
            folder = _make_next(project, name)
    except OSError as e:
        raise InputError(
            "`project` %s: cannot make a run folder there (%s)" % (project, e.strerror)
        ) from e
    if not os.access(str(folder), os.W_OK):
        raise InputError("%s: no permission to write into this folder" % folder)
    return folder


def _sweep_runs(project: Path, name: str) -> None:
    """Remove what killed runs of this name left in their folders and those in them."""
    for run in project.iterdir():
        if re.match(re.escape(name) + r"\d*$", run.name) and run.is_dir():
            for folder in [run, *(path for path in run.iterdir() if path.is_dir())]:
                _sweep(folder)


def _make_next(project: Path, name: str) -> Path:
    pattern = re.compile(re.escape(name) + r"(\d*)$")
    taken = [pattern.match(p.name) for p in project.iterdir()]
    last = max([int(m.group(1) or 1) for m in taken if m], default=0)
    while True:  # two runs may start at once: mkdir decides who has the number
        last += 1
        folder = project / (name if last == 1 else "%s%d" % (name, last))
        try:
            folder.mkdir()
            return folder
        except FileExistsError:
            if not folder.is_dir():
                raise


def remove_if_empty(folder: Path) -> None:
    """Remove a run folder nothing was written into."""
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


def content_hash(path: Union[str, Path]) -> bytes:
    """16 bytes that two different files do not share."""
    digest = hashlib.blake2b(digest_size=16)
    with open(str(path), "rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.digest()
