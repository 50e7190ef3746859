"""The config of a run that goes on: `config = resumed(TrainConfig(resume="runs/exp/last.pt"))`."""

import dataclasses
import re
from pathlib import Path
from typing import Any, Dict

from models.checkpoint import TrainingState, load_training_state
from utils.errors import InputError, warn
from utils.reading import is_integer, is_number, shown
from utils.training.config import TrainConfig
from utils.training.hyper_parameters import check_hyp
from utils.training.loss import PARTS
from utils.training.peers import Peers

NEW = ("device", "cache_images", "workers")  # about the machine: these may differ from the run's


def resumed(config: TrainConfig) -> TrainConfig:
    """The config that the run was started with; what concerns the machine may be new, and there
    may be more epochs. Warns of other values, which do not count.

    Raises InputError if `resume` of the config names no unfinished run.
    """
    if isinstance(config.resume, str) and Path(config.resume).suffix != ".pt":
        raise InputError("`resume` %s: expected the last.pt of a run" % config.resume)
    path = Path(config.resume) if isinstance(config.resume, str) else latest(config.project)
    _, state = load_training_state(path)
    check_state(state, str(path))
    known = {f.name for f in dataclasses.fields(TrainConfig)}
    kept = {name: value for name, value in state.plain["args"].items() if name in known}
    default = TrainConfig(resume=True)
    asked = {
        name: getattr(config, name)
        for name in known - {"resume", "kpt_label"}
        if _flag(getattr(config, name)) != _flag(getattr(default, name))
    }
    if not isinstance(config.resume, str):
        asked.pop("project", None)  # where the latest run was looked for
    ignored = []
    for name, value in sorted(asked.items()):
        same = _flag(kept.get(name)) == _flag(value)
        if name in NEW or (name == "epochs" and value > kept.get(name, 0)):
            kept[name] = value
        elif not same:
            ignored.append("`%s` (%s)" % (name, _text(kept.get(name))))
    if ignored:
        warn("`resume` goes on as the run was started; ignored are %s" % ", ".join(ignored))
    return dataclasses.replace(default, **{**kept, "resume": str(path)})


def resumed_alike(config: TrainConfig, peers: Peers) -> TrainConfig:
    """`resumed` for one of several processes: the first one has the run and says how it was
    started; what this command line says of its own machine counts here.

    Raises InputError as resumed, in the first process.
    """
    found = TrainConfig(**peers.of_first("resume", lambda: resumed(config).plain()))
    default = TrainConfig(resume=True)
    own = {n: getattr(config, n) for n in NEW if getattr(config, n) != getattr(default, n)}
    return dataclasses.replace(found, **own)


def _flag(value: Any) -> Any:
    """A value to compare: the parser makes lists, the config has tuples."""
    return list(value) if isinstance(value, tuple) else value


def _text(value: Any) -> str:
    """A value as one types it."""
    return " ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def check_state(state: TrainingState, path: str) -> None:
    """Raise InputError for a state that no run can have written.

    Whether its tensors fit the network, Trainer.restore sees.
    """
    try:
        plain = state.plain
        args = plain.get("args") if isinstance(plain, dict) else None
        if not isinstance(args, dict):
            raise ValueError("no args")
        default = TrainConfig(resume=True)
        for field in dataclasses.fields(TrainConfig):
            if field.name in args:
                _check_type(field.name, args[field.name], getattr(default, field.name))
        epochs = args.get("epochs", default.epochs)
        for name in ("epoch", "best_epoch"):
            if not is_integer(plain.get(name), 0, epochs):
                raise ValueError("%s %s, expected 0 to %d" % (name, shown(plain.get(name)), epochs))
        if not is_number(plain.get("best"), -1, 1):
            raise ValueError("best %s, expected -1 to 1" % shown(plain.get("best")))
        if not is_integer(plain.get("updates"), 0, 2**53):
            raise ValueError("updates %s, expected a count" % shown(plain.get("updates")))
        check_hyp(plain.get("hyp"), path)
        for name, tensor in state.tensors.items():
            if not re.match(r"(model\.|optimizer\.\d{1,6}\.\w+$)", name):
                raise ValueError("a tensor %s" % name[:60])
            if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
                raise ValueError("%s is not finite" % name[:60])
    except ValueError as e:
        raise InputError("%s: damaged state of a run (%s); begin a new one" % (path, e)) from e


def last_row(meta: Dict[str, Any], epoch: int) -> Dict[str, float]:
    """Row of results.csv of the epoch, counted from 1, that the checkpoint of a run was written
    after; empty if it is not whole.

    Args: meta: of the checkpoint.
    """
    row = meta.get("metrics")
    needed = ("epoch", *PARTS, "loss", "lr", "images_per_s", "memory_gb", "reserved_gb")
    if not isinstance(row, dict) or not all(is_number(row.get(key)) for key in needed):
        return {}
    return dict(row) if row["epoch"] == epoch else {}


def _check_type(name: str, value: Any, default: Any) -> None:
    """Raise ValueError unless a field of TrainConfig may have this value; limits come later."""
    if name == "img_size":
        good = isinstance(value, (list, tuple)) and all(is_integer(v, 1, 2**31) for v in value)
    elif name == "workers":
        good = value is None or is_integer(value, 0, 2**31)
    elif name == "resume":
        good = isinstance(value, (bool, str))
    elif isinstance(default, float):
        good = is_number(value)
    else:
        good = type(value) is type(default)
    if not good:
        raise ValueError("%s is %s" % (name, shown(value)))


def latest(project: str) -> Path:
    """The last.pt written last below a project folder."""
    found = sorted(Path(project).glob("*/weights/last.pt"), key=lambda p: p.stat().st_mtime)
    if not found:
        raise InputError("`resume`: no */weights/last.pt in %s; name the file" % project)
    return found[-1]
