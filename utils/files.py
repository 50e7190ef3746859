"""Writing files whole or not at all, and run folders that never collide."""

import contextlib
import itertools
import os
import re
from pathlib import Path
from typing import Iterator, Union

from utils.errors import InputError

_numbers = itertools.count()


@contextlib.contextmanager
def atomic_path(path: Union[str, Path]) -> Iterator[Path]:
    """Yield a temporary path beside `path`; move it there on success, delete it on failure.

    The temporary name keeps the suffix, so writers that look at it (OpenCV, torch) work.
    Missing parent folders are made. Raises InputError if the folder cannot be written.
    """
    path = Path(path)
    # short: the name itself may use up the length a file system allows
    tmp = path.with_name(".tmp%d-%d%s" % (os.getpid(), next(_numbers), path.suffix))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not os.access(str(path.parent), os.W_OK):
            raise PermissionError(13, "Permission denied")
    except OSError as e:
        raise InputError(
            "%s: cannot write into this folder (%s)" % (path.parent, e.strerror)
        ) from e
    if path.is_dir():
        raise InputError("%s: is a folder, expected the name of a file" % path)
    try:
        yield tmp
        os.replace(str(tmp), str(path))
    except OSError as e:  # disk full, quota, a file system that takes no files
        raise InputError("%s: cannot be written (%s)" % (path, e.strerror or e)) from e
    finally:
        if tmp.exists():
            tmp.unlink()


def increment_dir(project: Union[str, Path], name: str, exist_ok: bool = False) -> Path:
    """Create and return `project/name`, or `name2`, `name3`, ... if that exists.

    Raises InputError if the folder cannot be made or written.
    """
    project = Path(project)
    try:
        project.mkdir(parents=True, exist_ok=True)
        if exist_ok:
            folder = project / name
            folder.mkdir(exist_ok=True)
        else:
            folder = _make_next(project, name)
    except OSError as e:
        raise InputError(
            "--project %s: cannot make a run folder there (%s)" % (project, e.strerror)
        ) from e
    if not os.access(str(folder), os.W_OK):
        raise InputError("%s: no permission to write into this folder" % folder)
    return folder


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
