"""The config of a run that goes on: `config = resumed(TrainConfig(resume="runs/exp/last.pt"))`."""

import dataclasses
from pathlib import Path

from models.checkpoint import load_training_state
from utils.errors import InputError
from utils.training.config import TrainConfig

NEW = ("device", "cache_images", "workers")  # about the machine: these may differ from the run's


def resumed(config: TrainConfig) -> TrainConfig:
    """The config that the run was started with; what concerns the machine may be new.

    Raises InputError if `resume` of the config names no unfinished run.
    """
    path = Path(config.resume) if isinstance(config.resume, str) else latest(config.project)
    _, state = load_training_state(path)
    known = {f.name for f in dataclasses.fields(TrainConfig)}
    kept = {name: value for name, value in state.plain["args"].items() if name in known}
    default = TrainConfig(resume=True)
    for name in NEW:
        if getattr(config, name) != getattr(default, name):
            kept[name] = getattr(config, name)
    return dataclasses.replace(default, **{**kept, "resume": str(path)})


def latest(project: str) -> Path:
    """The last.pt written last below a project folder."""
    found = sorted(Path(project).glob("*/weights/last.pt"), key=lambda p: p.stat().st_mtime)
    if not found:
        raise InputError("`resume`: no */weights/last.pt in %s; name the file" % project)
    return found[-1]
