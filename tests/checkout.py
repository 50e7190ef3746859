"""A copy of the working tree without results, in which commands of the docs are typed."""

import shutil
from pathlib import Path
from typing import Any

from tests.conftest import ROOT


def make_checkout(folder: Path, model: Any, **meta: Any) -> Path:
    """The files that the commands name; `model` stands for the shipped s6.

    Args: meta: of its file.
    """
    from models.checkpoint import save_checkpoint

    for name in ("data/images", "tests/data/people", "models/hub"):
        shutil.copytree(str(ROOT / name), str(folder / name))
    for path in (ROOT / "data").glob("*.yaml"):
        shutil.copy(str(path), str(folder / "data"))
    (folder / "weights").mkdir()
    save_checkpoint(folder / "weights" / "yolov5s6_pose.pt", model, meta)
    return folder
