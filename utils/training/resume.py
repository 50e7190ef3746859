"""The config of a run that goes on: `config = resumed(TrainConfig(resume="runs/exp/last.pt"))`."""

import dataclasses
import warnings
from pathlib import Path
from typing import Any

from models.checkpoint import load_training_state
from utils.errors import InputError, InputWarning
from utils.training.config import TrainConfig

NEW = ("device", "cache_images", "workers")  # about the machine: these may differ from the run's


def resumed(config: TrainConfig) -> TrainConfig:
    """The config that the run was started with; what concerns the machine may be new, and there
    may be more epochs. Warns of other values, which do not count.

    Raises InputError if `resume` of the config names no unfinished run.
    """
    path = Path(config.resume) if isinstance(config.resume, str) else latest(config.project)
    _, state = load_training_state(path)
    known = {f.name for f in dataclasses.fields(TrainConfig)}
    kept = {name: value for name, value in state.plain["args"].items() if name in known}
    default = TrainConfig(resume=True)
    asked = {
        name: getattr(config, name)
        for name in known - {"resume", "kpt_label"}
        if getattr(config, name) != getattr(default, name)
    }
    if not isinstance(config.resume, str):
        asked.pop("project", None)  # where the latest run was looked for
    ignored = []
    for name, value in sorted(asked.items()):
        same = kept.get(name) == (list(value) if isinstance(value, tuple) else value)
        if name in NEW or (name == "epochs" and value > kept.get(name, 0)):
            kept[name] = value
        elif not same:
            ignored.append("`%s` (%s)" % (name, _text(kept.get(name))))
    if ignored:
        warnings.warn(
            "`resume` goes on as the run was started; ignored are %s" % ", ".join(ignored),
            InputWarning,
            stacklevel=2,
        )
    return dataclasses.replace(default, **{**kept, "resume": str(path)})


def _text(value: Any) -> str:
    """A value as one types it."""
    return " ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def latest(project: str) -> Path:
    """The last.pt written last below a project folder."""
    found = sorted(Path(project).glob("*/weights/last.pt"), key=lambda p: p.stat().st_mtime)
    if not found:
        raise InputError("`resume`: no */weights/last.pt in %s; name the file" % project)
    return found[-1]
