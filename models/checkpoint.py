"""Load and save `.pt` checkpoints: the only place that touches them.

    python models/checkpoint.py --weights yolov5s6_pose.pt --out weights/yolov5s6_pose.pt

reads a public (pickled) checkpoint or one of ours and writes one of ours. Two formats are read:

* Ours: a dict of tensors and plain values that `torch.load(weights_only=True)` accepts. Keys:
  `format`, `version`, `cfg` (dict), `names` (list), `keypoints` (dict, utils/pose/skeleton.py),
  `state_dict`, `meta` (dict), and in the `last.pt` of an unfinished training run `training` (see
  TrainingState).
* The public YOLO-Pose checkpoints: pickles of whole modules, see public_modules.py.

Both go through archive.py, which knows a list of names and refuses any other before anything is
called. Sizes are compared with what the file really holds before memory is taken.
"""

import argparse
import errno
import io
import os
import struct
import sys
import zipfile
from pathlib import Path
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Tuple, Union

if not __package__:
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from utils import cli

try:
    import torch
except ImportError as error:
    cli.no_torch(error, __name__, "a .pt")

from models.archive import TensorMarker, TensorReader, check_plain, read_archive
from models.cfg import check_cfg
from models.public_modules import read_modules
from models.yolo import Model
from utils.errors import InputError, one_line
from utils.files import atomic_path
from utils.outputs import check_replaceable
from utils.pose.skeleton import of_model, skeleton_keys
from utils.reading import check_file

FORMAT = "yolo-pose-checkpoint"
VERSION = 1
SHIPPED = "weights/yolov5s6_pose.pt"


class Checkpoint(NamedTuple):
    """What a `.pt` holds, whichever format it came in."""

    model: Model  # float32, eval, on the CPU
    meta: Dict[str, Any]  # plain values: epoch, metrics, origin, ...

    @property
    def trained_hw(self) -> Optional[Tuple[int, int]]:
        """(height, width) px it was trained at, None if the file does not say it."""
        size, stride = self.meta.get("imgsz"), self.model.max_stride
        if not isinstance(size, (list, tuple)) or len(size) != 2:
            return None
        if not all(type(v) is int and 0 < v < 65536 and v % stride == 0 for v in size):
            return None
        return size[0], size[1]


class TrainingState(NamedTuple):
    """What a training run needs to go on exactly where it was, beside the averaged weights."""

    plain: Dict[str, Any]  # plain values: epochs done, flags, hyper-parameters, best figure
    tensors: Dict[str, torch.Tensor]  # weights being trained, state of the optimizer


def save_checkpoint(
    path: Union[str, Path],
    model: Model,
    meta: Optional[Dict[str, Any]] = None,
    *,
    half: bool = False,
    training: Optional[TrainingState] = None,
) -> None:
    """Write `model` (not fused) in our format, atomically.

    Args:
        meta: plain values (numbers, strings, lists, dicts) to keep beside the weights.
        half: store weights as FP16 (BatchNorm statistics and anchors stay FP32): half the size.
        training: what load_training_state shall return.

    Raises ValueError for a fused model, names that do not match the classes, or meta that is
    not plain.
    """
    if model.fused:
        raise ValueError("a fused model cannot be saved; save it before fuse()")
    _names(list(model.names), model.nc)
    check_plain(dict(meta or {}))
    kept = ("anchors", "anchor_grid", "running_mean", "running_var")  # small, and may overflow
    state = {}
    for name, tensor in model.state_dict().items():
        tensor = tensor.detach().cpu()
        if half and tensor.is_floating_point() and name.rsplit(".", 1)[-1] not in kept:
            tensor = tensor.half()
        state[name] = tensor.contiguous().clone()
    content = {
        "format": FORMAT,
        "version": VERSION,
        "cfg": model.cfg,
        "names": list(model.names),
        "keypoints": skeleton_keys(model.skeleton),
        "state_dict": state,
        "meta": dict(meta or {}),
    }
    if training is not None:
        check_plain(training.plain)
        tensors = {k: v.detach().cpu().contiguous().clone() for k, v in training.tensors.items()}
        content["training"] = {"plain": training.plain, "tensors": tensors}
    data = io.BytesIO()  # torch's own writer answers a full disk with an internal error
    torch.save(content, data)
    with atomic_path(path) as tmp:
        tmp.write_bytes(data.getbuffer())


def load_checkpoint(path: Union[str, Path], parameter: str = "weights") -> Checkpoint:
    """Read one of our checkpoints or a public one.

    Args: parameter: the name of what `path` was given as, for errors; empty: of nothing.

    Raises InputError (one line, names parameter and file) for a missing, truncated, hostile or
    foreign file.
    """
    return _read(path, _from_any, parameter)


def load_training_state(path: Union[str, Path]) -> Tuple[Checkpoint, TrainingState]:
    """Read the `last.pt` of an unfinished run.

    Raises InputError as load_checkpoint, and for a checkpoint that cannot be trained on.
    """
    found = _read(path, _with_training, "resume")
    if found is None:
        raise InputError(
            "`resume` %s: no state of an unfinished run in it; if the run is finished, train on "
            "with `weights`" % path
        )
    return found


def _from_any(content: Dict[str, Any], tensors: TensorReader) -> Checkpoint:
    if content.get("format") == FORMAT:
        return _from_own(content, tensors)
    return _from_public(content, tensors)


def _with_training(
    content: Dict[str, Any], tensors: TensorReader
) -> Optional[Tuple[Checkpoint, TrainingState]]:
    training = content.get("training")
    if content.get("format") != FORMAT or not isinstance(training, dict):
        return None
    check_plain(training["plain"])
    state = {str(k): tensors.read(v) for k, v in training["tensors"].items()}
    return _from_own(content, tensors), TrainingState(dict(training["plain"]), state)


def _read(
    path: Union[str, Path],
    convert: Callable[[Dict[str, Any], TensorReader], Any],
    parameter: str,
) -> Any:
    """convert(content, tensors) of an archive. Raises InputError, see load_checkpoint."""
    path = Path(path)
    try:
        if not path.is_file():
            what = "a folder" if path.is_dir() else "no such file"
            usual = "runs/train/exp/weights/last.pt" if parameter == "resume" else SHIPPED
            raise InputError("%s: %s; expected a .pt checkpoint, such as %s" % (path, what, usual))
        return _read_file(path, convert)
    except InputError as e:
        raise InputError("`%s` %s" % (parameter, e) if parameter else str(e)) from e


def _read_file(path: Path, convert: Callable[[Dict[str, Any], TensorReader], Any]) -> Any:
    """As _read; its errors begin with the file."""
    check_file(path, "checkpoint")
    try:
        with _open_zip(path) as archive:
            content, tensors = read_archive(path, archive)
            try:
                return convert(content, tensors)
            except (InputError, OSError):
                raise
            # Whatever a foreign structure provokes, it means: not one of ours.
            except Exception as e:
                raise InputError(
                    "%s: not a YOLO-Pose checkpoint this toolkit knows (%s)" % (path, one_line(e))
                ) from e
    except (zipfile.BadZipFile, OSError) as e:
        if isinstance(e, OSError) and e.errno != errno.EINVAL:
            raise
        # EINVAL: the directory says that something lies before the begin of the file
        with path.open("rb") as f:
            if f.read(1) == b"\x80":
                raise InputError(
                    "%s: written by torch < 1.6 (not a zip); resave it there with a newer torch"
                    % path
                ) from e
        raise InputError(
            "%s: truncated or not a checkpoint (%s); copy or download it again" % (path, e)
        ) from e


def _open_zip(path: Path) -> zipfile.ZipFile:
    """Raises zipfile.BadZipFile for whatever a damaged directory of a zip provokes."""
    with path.open("rb"):  # a file that may not be read is no damaged one
        pass
    try:
        return zipfile.ZipFile(str(path))
    except (UnicodeDecodeError, NotImplementedError, OSError, ValueError, struct.error) as e:
        raise zipfile.BadZipFile(one_line(e)) from e


# --- own format -------------------------------------------------------------------------------


def _from_own(content: Dict[str, Any], tensors: TensorReader) -> Checkpoint:
    version = content["version"]
    if not isinstance(version, int) or version > VERSION:
        raise ValueError("written by a newer version of this toolkit")
    meta = content.get("meta") or {}
    check_plain(meta)
    model = _build(content["cfg"], content["state_dict"], tensors)
    model.names = _names(content["names"], model.nc)
    keypoints = content.get("keypoints") or {}
    check_plain(keypoints)
    model.skeleton = of_model(keypoints, model.nkpt)
    return Checkpoint(model, dict(meta))


def _names(names: object, nc: int) -> List[str]:
    if not (isinstance(names, list) and all(isinstance(n, str) for n in names)):
        raise ValueError("names are not a list of strings")
    if len(names) != nc:
        raise ValueError("%d names for %d classes" % (len(names), nc))
    return list(names)


def _build(cfg: Any, state: Dict[str, TensorMarker], tensors: TensorReader) -> Model:
    """The network of `cfg` with the tensors of `state`, float32, eval.

    Shapes are compared on a network without memory first: a cfg may ask for more than exists.
    Raises ValueError that counts and names what does not fit.
    """
    check_plain(cfg)
    check_cfg(cfg)
    with torch.device("meta"):
        wanted = {k: tuple(v.shape) for k, v in Model(cfg).state_dict().items()}
    missing = [k for k in wanted if k not in state]
    extra = [str(k) for k in state if k not in wanted]
    wrong = [k for k in wanted if k in state and wanted[k] != state[k].size]
    if missing or extra or wrong:
        parts = []
        for what, keys in (("missing", missing), ("unknown", extra), ("of another shape", wrong)):
            if keys:
                parts.append("%d %s (%s)" % (len(keys), what, ", ".join(keys[:2])))
        raise ValueError("tensors do not fit the cfg: " + "; ".join(parts))
    model = Model(cfg)
    own = model.state_dict()
    model.load_state_dict({k: tensors.read(state[k]).to(own[k].dtype) for k in own})
    return model.eval()


def _from_public(content: Dict[str, Any], tensors: TensorReader) -> Checkpoint:
    found = read_modules(content, tensors)
    model = _build(found.cfg, found.state, tensors)
    if found.names is not None:
        model.names = _names(found.names, model.nc)
    return Checkpoint(model, found.meta)


# --- command line -----------------------------------------------------------------------------


def get_args_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("checkpoint.py", description=__doc__.split("\n")[0])
    parser.add_argument("--weights", required=True, help="checkpoint to read (.pt)")
    parser.add_argument("--out", required=True, help="checkpoint to write (.pt)")
    parser.add_argument("--fp32", action="store_true", help="store FP32 instead of FP16")
    cli.add_overwrite(parser)
    return parser


def main(args: argparse.Namespace) -> None:
    if os.path.realpath(args.out) == os.path.realpath(args.weights):
        raise InputError("`out` %s: would overwrite `weights`; name another file" % args.out)
    if Path(args.out).suffix != ".pt":
        raise InputError("`out` %s: expected a file name ending in .pt" % args.out)
    check_replaceable(args.out)
    checkpoint = load_checkpoint(args.weights)
    save_checkpoint(args.out, checkpoint.model, checkpoint.meta, half=not args.fp32)
    model = checkpoint.model
    print(
        "%s: %.1f M parameters, %d keypoints, classes %s"
        % (args.out, model.parameter_count() / 1e6, model.nkpt, ", ".join(model.names))
    )


if __name__ == "__main__":
    cli.run(main, get_args_parser())
