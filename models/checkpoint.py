"""Load and save `.pt` checkpoints: the only place that touches them.

    python models/checkpoint.py --weights yolov5l6_pose.pt --out weights/yolov5l6_pose.pt

reads a public (pickled) checkpoint or one of ours and writes one of ours. Two formats are read:

* Ours: a dict of tensors and plain values that `torch.load(weights_only=True)` accepts. Keys:
  `format`, `version`, `cfg` (dict), `names` (list), `state_dict`, `meta` (dict).
* The public YOLO-Pose checkpoints: pickles of whole modules. They go through an unpickler that
  resolves an allow-list of names only. Module classes become empty records whose attributes are
  read, never run; any other name ends the load before anything is called.
"""

import argparse
import collections
import io
import pickle
import sys
import zipfile
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional, Tuple, Union

if not __package__:
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from models.yolo import Model, check_cfg
from utils.errors import InputError
from utils.files import atomic_path

FORMAT = "yolo-pose-checkpoint"
VERSION = 1
MAX_PICKLE_BYTES = 64 << 20  # the pickle of an l6 model has 0.2 MB, its optimizer a little more


class Checkpoint(NamedTuple):
    """What a `.pt` holds, whichever format it came in."""

    model: Model  # float32, eval, on the CPU
    meta: Dict[str, Any]  # plain values: epoch, metrics, origin, ...


def save_checkpoint(
    path: Union[str, Path],
    model: Model,
    meta: Optional[Dict[str, Any]] = None,
    half: bool = False,
) -> None:
    """Write `model` (not fused) in our format, atomically.

    Args:
        meta: plain values (numbers, strings, lists, dicts) to keep beside the weights.
        half: store floating tensors as FP16: half the size, what the public files do.
    """
    state = {}
    for name, tensor in model.state_dict().items():
        tensor = tensor.detach().cpu()
        if half and tensor.is_floating_point():
            tensor = tensor.half()
        state[name] = tensor.contiguous().clone()
    content = {
        "format": FORMAT,
        "version": VERSION,
        "cfg": model.cfg,
        "names": list(model.names),
        "state_dict": state,
        "meta": dict(meta or {}),
    }
    with atomic_path(path) as tmp:
        torch.save(content, str(tmp))


def load_checkpoint(path: Union[str, Path]) -> Checkpoint:
    """Read one of our checkpoints or a public one.

    Raises InputError (one line, names the file) for a missing, truncated, hostile or foreign
    file.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError("%s: no such file, expected a .pt checkpoint" % path)
    content = _read_zip(path)
    if not isinstance(content, dict):
        raise InputError("%s: expected a checkpoint dict, got %s" % (path, type(content).__name__))
    try:
        if content.get("format") == FORMAT:
            return _from_own(content)
        return _from_public(content)
    except (ValueError, KeyError, AttributeError, TypeError, RuntimeError) as e:
        reason = " ".join(str(e).split())
        if len(reason) > 300:
            reason = reason[:300] + " ..."
        raise InputError(
            "%s: not a YOLO-Pose checkpoint this toolkit knows (%s: %s)"
            % (path, type(e).__name__, reason)
        ) from e


# --- own format -------------------------------------------------------------------------------


def _from_own(content: Dict[str, Any]) -> Checkpoint:
    if content["version"] > VERSION:
        raise ValueError(
            "written by a newer version of this toolkit (format %s)" % content["version"]
        )
    model = Model(content["cfg"])
    _load_state(model, content["state_dict"])
    model.names = [str(n) for n in content["names"]]
    return Checkpoint(model.eval(), dict(content.get("meta") or {}))


def _load_state(model: Model, state: Dict[str, torch.Tensor]) -> None:
    """load_state_dict with an error that counts and names what does not fit."""
    own = model.state_dict()
    missing = [k for k in own if k not in state]
    extra = [k for k in state if k not in own]
    wrong = [k for k in own if k in state and own[k].shape != state[k].shape]
    if missing or extra or wrong:
        parts = []
        for what, keys in (("missing", missing), ("unknown", extra), ("of another shape", wrong)):
            if keys:
                parts.append("%d %s (%s)" % (len(keys), what, ", ".join(keys[:2])))
        raise ValueError("tensors do not fit the cfg: " + "; ".join(parts))
    model.load_state_dict({k: v.to(own[k].dtype) for k, v in state.items()})


# --- public format ----------------------------------------------------------------------------


class _Record:
    """Stands in for a pickled module: keeps its attributes, has no behaviour."""

    kind = ""  # the qualified name in the pickle

    def __init__(self, *args: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, dict):
            self.__dict__.update(state)


def _record(kind: str) -> type:
    return type("_Record", (_Record,), {"kind": kind})


_RECORD_NAMES = (
    ["models.yolo.Model", "models.yolo.Detect"]
    + [
        "models.common." + n
        for n in ("Conv DWConv Focus ConvFocus Contract Bottleneck C3 SPP Concat autoShape".split())
    ]
    + [
        "torch.nn.modules." + n
        for n in (
            "conv.Conv2d batchnorm.BatchNorm2d container.Sequential container.ModuleList "
            "pooling.MaxPool2d upsampling.Upsample linear.Identity activation.SiLU "
            "activation.ReLU activation.ReLU6 activation.LeakyReLU activation.Hardswish"
        ).split()
    ]
)
# Names our own networks pickle under when somebody saves the whole module.
_RECORD_NAMES.append("models.yolo.PoseHead")
_RECORDS = {name: _record(name) for name in _RECORD_NAMES}


class _Storage(NamedTuple):
    """Marker for a storage class named in the pickle."""

    dtype: torch.dtype


_STORAGES = {
    "torch.DoubleStorage": _Storage(torch.float64),
    "torch.FloatStorage": _Storage(torch.float32),
    "torch.HalfStorage": _Storage(torch.float16),
    "torch.BFloat16Storage": _Storage(torch.bfloat16),
    "torch.LongStorage": _Storage(torch.int64),
    "torch.IntStorage": _Storage(torch.int32),
    "torch.ShortStorage": _Storage(torch.int16),
    "torch.CharStorage": _Storage(torch.int8),
    "torch.ByteStorage": _Storage(torch.uint8),
    "torch.BoolStorage": _Storage(torch.bool),
}


def _rebuild_tensor(
    storage: torch.Tensor, offset: int, size: Tuple[int, ...], stride: Tuple[int, ...], *_: Any
) -> torch.Tensor:
    """The view `size`, `stride`, `offset` of a flat tensor; refuses to look outside it."""
    if not isinstance(storage, torch.Tensor):
        raise pickle.UnpicklingError("a tensor without its storage")
    if len(size) != len(stride) or offset < 0 or min([0, *size]) < 0 or min([0, *stride]) < 0:
        raise pickle.UnpicklingError("a tensor with a malformed shape")
    last = offset + sum((n - 1) * s for n, s in zip(size, stride))
    if all(n > 0 for n in size) and last >= storage.numel():
        raise pickle.UnpicklingError("a tensor of shape %s outside its storage" % (tuple(size),))
    return torch.as_strided(storage, tuple(size), tuple(stride), offset)


def _rebuild_parameter(data: torch.Tensor, *_: Any) -> torch.Tensor:
    return data


class _Reconstructor:
    """`copyreg._reconstructor(cls, object, None)`, for our records only."""

    def __call__(self, cls: Any, base: Any, state: Any) -> Any:
        if not (isinstance(cls, type) and issubclass(cls, _Record)):
            raise pickle.UnpicklingError("copyreg._reconstructor of %r" % (cls,))
        return cls()


def _default_dict(*_: Any) -> Dict[Any, Any]:
    return {}


def _scalar(*_: Any) -> None:
    """NumPy scalars (best_fitness and the like) are not needed; their bytes are not decoded."""
    return None


_CALLABLES: Dict[str, Any] = {
    "collections.OrderedDict": collections.OrderedDict,
    "collections.defaultdict": _default_dict,
    "__builtin__.set": set,
    "builtins.set": set,
    "__builtin__.object": object,
    "builtins.object": object,
    "__builtin__.dict": dict,
    "builtins.dict": dict,
    "copy_reg._reconstructor": _Reconstructor(),
    "copyreg._reconstructor": _Reconstructor(),
    "torch.Size": tuple,
    "torch._utils._rebuild_tensor_v2": _rebuild_tensor,
    "torch._utils._rebuild_parameter": _rebuild_parameter,
    "numpy.core.multiarray.scalar": _scalar,
    "numpy._core.multiarray.scalar": _scalar,
    "numpy.dtype": _record("numpy.dtype"),
    "_codecs.encode": _scalar,
}
_ALLOWED: Dict[str, Any] = {}
_ALLOWED.update(_CALLABLES)
_ALLOWED.update(_STORAGES)
_ALLOWED.update(_RECORDS)


class _RestrictedUnpickler(pickle.Unpickler):
    """Resolves the names of _ALLOWED and nothing else."""

    def __init__(self, data: bytes, archive: zipfile.ZipFile, prefix: str):
        super().__init__(io.BytesIO(data), encoding="utf-8")
        self._archive, self._prefix = archive, prefix
        self._storages: Dict[str, torch.Tensor] = {}

    def find_class(self, module: str, name: str) -> Any:
        full = module + "." + name
        if full not in _ALLOWED:
            raise _Refused(full)
        return _ALLOWED[full]

    def persistent_load(self, pid: Any) -> torch.Tensor:
        if not (isinstance(pid, tuple) and len(pid) == 5 and pid[0] == "storage"):
            raise pickle.UnpicklingError("unknown persistent id %r" % (pid,))
        _, storage, key, _, numel = pid
        if not isinstance(storage, _Storage):
            raise pickle.UnpicklingError("unknown storage class %r" % (storage,))
        key = str(key)
        if key not in self._storages:
            data = self._archive.read("%s/data/%s" % (self._prefix, key))
            size = torch.empty(0, dtype=storage.dtype).element_size()
            if len(data) != numel * size:
                raise pickle.UnpicklingError(
                    "storage %s has %d bytes, expected %d" % (key, len(data), numel * size)
                )
            tensor = torch.empty(0, dtype=storage.dtype)
            if data:
                tensor = torch.frombuffer(bytearray(data), dtype=storage.dtype)
            self._storages[key] = tensor
        return self._storages[key]


class _Refused(pickle.UnpicklingError):
    """A pickle named something outside the allow-list."""


def _read_zip(path: Path) -> Any:
    """The content of a torch zip checkpoint through the restricted unpickler.

    Raises InputError for anything but a sane, uncompressed zip whose pickle names known classes.
    """
    try:
        with zipfile.ZipFile(str(path)) as archive:
            infos = archive.infolist()
            _check_archive(path, infos)
            pickles = [i.filename for i in infos if i.filename.endswith("/data.pkl")]
            if len(pickles) != 1:
                raise InputError("%s: a zip without data.pkl is not a checkpoint" % path)
            _check_byteorder(path, archive, pickles[0][: -len("/data.pkl")])
            data = archive.read(pickles[0])
            return _RestrictedUnpickler(data, archive, pickles[0][: -len("/data.pkl")]).load()
    except _Refused as e:
        raise InputError(
            "%s: refused, its pickle names %s, which no YOLO-Pose checkpoint needs; "
            "nothing was executed. Do not load this file with other tools" % (path, e)
        ) from e
    except zipfile.BadZipFile as e:
        head = path.open("rb").read(2)
        if head[:1] == b"\x80":
            raise InputError(
                "%s: written by torch < 1.6 (not a zip); resave it there with a newer torch" % path
            ) from e
        raise InputError(
            "%s: truncated or not a checkpoint (%s); copy or download it again" % (path, e)
        ) from e
    except InputError:
        raise
    except MemoryError as e:
        raise InputError("%s: damaged checkpoint (asks for absurd memory)" % path) from e
    # A damaged pickle may raise nearly anything from the opcode that meets the damage.
    except Exception as e:
        raise InputError(
            "%s: damaged checkpoint (%s: %s); copy or download it again"
            % (path, type(e).__name__, str(e).split("\n")[0][:200])
        ) from e


def _check_archive(path: Path, infos: List[zipfile.ZipInfo]) -> None:
    """Refuse compressed members and sizes the file cannot hold (zip bombs)."""
    file_size = path.stat().st_size
    if any(i.compress_type != zipfile.ZIP_STORED for i in infos):
        raise InputError("%s: refused, compressed zip members; checkpoints store theirs" % path)
    declared = sum(i.file_size for i in infos)
    if declared > file_size:
        raise InputError(
            "%s: refused, its members claim %d bytes, the file has %d" % (path, declared, file_size)
        )
    for i in infos:
        if i.filename.endswith("data.pkl") and i.file_size > MAX_PICKLE_BYTES:
            raise InputError("%s: refused, a pickle of %d bytes" % (path, i.file_size))


def _check_byteorder(path: Path, archive: zipfile.ZipFile, prefix: str) -> None:
    name = prefix + "/byteorder"
    if name in archive.namelist() and archive.read(name).strip() != sys.byteorder.encode():
        raise InputError("%s: written on a machine of the other byte order" % path)


def _from_public(content: Dict[str, Any]) -> Checkpoint:
    """Module tree -> cfg + state_dict of our Model; the EMA weights if there are any."""
    root = content.get("ema") or content.get("model")
    if not isinstance(root, _Record) or root.kind != "models.yolo.Model":
        found = getattr(root, "kind", type(root).__name__)
        raise ValueError("expected a models.yolo.Model under 'model', found %s" % found)
    layers = _children(root)["model"]
    head = list(_children(layers).values())[-1]
    source = getattr(root, "yaml", None) or getattr(root, "cfg", None)
    if not isinstance(source, dict):
        raise ValueError("the model has no cfg (attribute yaml)")
    cfg = {k: v for k, v in source.items() if _is_plain(v)}
    check_cfg(cfg)
    cfg["nc"], cfg["nkpt"] = int(head.nc), int(head.nkpt)
    cfg["dw_conv_kpt"] = bool(getattr(head, "dw_conv_kpt", False))
    state: Dict[str, torch.Tensor] = {}
    _tensors_of(root, "", state)
    cfg["anchors"] = _anchors_px(state, head)
    cfg["act_by_layer"] = _activations(layers, cfg)
    model = Model(cfg)
    for key in ("anchors", "anchor_grid"):
        state.setdefault("model.%d.%s" % (len(model.model) - 1, key), getattr(model.head, key))
    _load_state(model, state)
    names = getattr(root, "names", None)
    if isinstance(names, dict):
        names = list(names.values())
    if names and len(names) == model.nc:
        model.names = [str(n) for n in names]
    meta = {k: content[k] for k in ("epoch",) if isinstance(content.get(k), int)}
    meta["origin"] = "public checkpoint"
    return Checkpoint(model.eval(), meta)


def _is_plain(value: Any) -> bool:
    if isinstance(value, dict):
        return all(_is_plain(v) for v in value.values())
    if isinstance(value, (list, tuple)):
        return all(_is_plain(v) for v in value)
    return value is None or isinstance(value, (bool, int, float, str))


def _children(record: Any) -> Dict[str, Any]:
    return {k: v for k, v in record._modules.items() if v is not None}


def _tensors_of(record: Any, prefix: str, out: Dict[str, torch.Tensor]) -> None:
    """Parameters and buffers below `record`, keyed as `state_dict` would."""
    skip = getattr(record, "_non_persistent_buffers_set", ())
    for group in (record._parameters, record._buffers):
        for name, tensor in group.items():
            if isinstance(tensor, torch.Tensor) and name not in skip:
                out[prefix + name] = tensor
    for name, child in _children(record).items():
        _tensors_of(child, prefix + name + ".", out)


def _anchors_px(state: Dict[str, torch.Tensor], head: Any) -> List[List[float]]:
    """Anchors in pixels from the buffers: the trainer may have replaced those of the cfg."""
    key = [k for k in state if k.endswith(".anchors")]
    if len(key) != 1:
        raise ValueError("the last layer holds no anchors")
    stride = head.stride.float().view(-1, 1, 1)
    px = state[key[0]].float() * stride
    return [[round(v, 3) for v in level.flatten().tolist()] for level in px]


def _activations(layers: Any, cfg: Dict[str, Any]) -> Dict[int, str]:
    """Layers whose activation is not the cfg's (the public ti_lite files keep SiLU in the SPP)."""
    default = str(cfg.get("act") or "SiLU").replace("nn.", "").replace("()", "")
    different = {}
    for i, layer in enumerate(_children(layers).values()):
        kinds = set()
        _activation_kinds(layer, kinds)
        if len(kinds) > 1:
            raise ValueError("layer %d mixes the activations %s" % (i, ", ".join(sorted(kinds))))
        if kinds and kinds != {default}:
            different[i] = kinds.pop()
    return different


def _activation_kinds(record: Any, out: set) -> None:
    for name, child in _children(record).items():
        if name == "act":
            out.add(child.kind.rsplit(".", 1)[-1])
        else:
            _activation_kinds(child, out)


# --- command line -----------------------------------------------------------------------------


def get_args_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("convert a checkpoint", description=__doc__.split("\n")[0])
    parser.add_argument("--weights", required=True, help="checkpoint to read (.pt)")
    parser.add_argument("--out", required=True, help="checkpoint to write (.pt)")
    parser.add_argument("--fp32", action="store_true", help="store FP32 instead of FP16")
    return parser


def main(args: argparse.Namespace) -> None:
    if Path(args.out).suffix != ".pt":
        raise InputError("--out %s: expected a file name ending in .pt" % args.out)
    checkpoint = load_checkpoint(args.weights)
    save_checkpoint(args.out, checkpoint.model, checkpoint.meta, half=not args.fp32)
    model = checkpoint.model
    print(
        "%s: %.1f M parameters, %d keypoints, classes %s"
        % (args.out, model.parameter_count() / 1e6, model.nkpt, ", ".join(model.names))
    )


if __name__ == "__main__":
    from utils import cli

    cli.run(main, get_args_parser())
