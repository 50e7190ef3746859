"""Load and save `.pt` checkpoints: the only place that touches them.

    python models/checkpoint.py --weights yolov5l6_pose.pt --out weights/yolov5l6_pose.pt

reads a public (pickled) checkpoint or one of ours and writes one of ours. Two formats are read:

* Ours: a dict of tensors and plain values that `torch.load(weights_only=True)` accepts. Keys:
  `format`, `version`, `cfg` (dict), `names` (list), `state_dict`, `meta` (dict).
* The public YOLO-Pose checkpoints: pickles of whole modules.

Both go through an unpickler that resolves an allow-list of names only. Module classes become empty
records whose attributes are read, never run; tensors become markers of where their values lie; any
other name ends the load before anything is called. Sizes are compared with what the file really
holds before memory is taken.
"""

import argparse
import io
import pickle
import pickletools
import sys
import zipfile
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional, Set, Tuple, Union

if not __package__:
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

try:
    import torch
except ImportError as error:
    if __name__ == "__main__":
        sys.exit("error: a .pt needs PyTorch; pip install torch (%s)" % error)
    raise

from models.common import activation_name
from models.yolo import Model, check_cfg
from utils.errors import InputError
from utils.files import atomic_path

FORMAT = "yolo-pose-checkpoint"
VERSION = 1
MAX_PICKLE_BYTES = 64 << 20  # the pickle of an l6 model has 0.2 MB, its optimizer a little more
MAX_PLAIN_VALUES = 100_000  # values of a cfg, or modules of a tree


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
        half: store weights as FP16 (BatchNorm statistics and anchors stay FP32): half the size.

    Raises ValueError for a fused model, names that do not match the classes, or meta that is
    not plain.
    """
    if model.fused:
        raise ValueError("a fused model cannot be saved; save it before fuse()")
    _names(list(model.names), model.nc)
    _check_plain(dict(meta or {}))
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
        "state_dict": state,
        "meta": dict(meta or {}),
    }
    data = io.BytesIO()  # torch's own writer answers a full disk with an internal error
    torch.save(content, data)
    with atomic_path(path) as tmp:
        tmp.write_bytes(data.getbuffer())


def load_checkpoint(path: Union[str, Path]) -> Checkpoint:
    """Read one of our checkpoints or a public one.

    Raises InputError (one line, names the file) for a missing, truncated, hostile or foreign
    file.
    """
    path = Path(path)
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "no such file"
        raise InputError("%s: %s, expected a .pt checkpoint" % (path, what))
    try:
        with zipfile.ZipFile(str(path)) as archive:
            content, tensors = _read_pickle(path, archive)
            try:
                if content.get("format") == FORMAT:
                    return _from_own(content, tensors)
                return _from_public(content, tensors)
            except (InputError, OSError):
                raise
            # Whatever a foreign structure provokes, it means: not one of ours.
            except Exception as e:
                raise InputError(
                    "%s: not a YOLO-Pose checkpoint this toolkit knows (%s)" % (path, _reason(e))
                ) from e
    except zipfile.BadZipFile as e:
        with path.open("rb") as f:
            if f.read(1) == b"\x80":
                raise InputError(
                    "%s: written by torch < 1.6 (not a zip); resave it there with a newer torch"
                    % path
                ) from e
        raise InputError(
            "%s: truncated or not a checkpoint (%s); copy or download it again" % (path, e)
        ) from e


def _reason(error: BaseException) -> str:
    """Kind and first words of an exception, on one line."""
    text = " ".join(str(error).split())
    return "%s: %s" % (type(error).__name__, text[:300] + " ..." if len(text) > 300 else text)


# --- own format -------------------------------------------------------------------------------


def _from_own(content: Dict[str, Any], tensors: "_Tensors") -> Checkpoint:
    version = content["version"]
    if not isinstance(version, int) or version > VERSION:
        raise ValueError("written by a newer version of this toolkit")
    meta = content.get("meta") or {}
    _check_plain(meta)
    model = _build(content["cfg"], content["state_dict"], tensors)
    model.names = _names(content["names"], model.nc)
    return Checkpoint(model, dict(meta))


def _names(names: Any, nc: int) -> List[str]:
    if not (isinstance(names, list) and all(isinstance(n, str) for n in names)):
        raise ValueError("names are not a list of strings")
    if len(names) != nc:
        raise ValueError("%d names for %d classes" % (len(names), nc))
    return list(names)


def _build(cfg: Any, state: Dict[str, "_Tensor"], tensors: "_Tensors") -> Model:
    """The network of `cfg` with the tensors of `state`, float32, eval.

    Shapes are compared on a network without memory first: a cfg may ask for more than exists.
    Raises ValueError that counts and names what does not fit.
    """
    _check_plain(cfg)
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


# --- public format: names and tensors ---------------------------------------------------------


class _Record:
    """Stands in for a pickled object: keeps its attributes, has no behaviour."""

    kind = ""  # the qualified name in the pickle


def _record(kind: str) -> type:
    return type("_Record", (_Record,), {"kind": kind})


_RECORD_NAMES = (
    ["models.yolo." + n for n in "Model Detect PoseHead".split()]
    + [
        "models.common." + n
        for n in "Conv DWConv Focus ConvFocus Contract Bottleneck C3 SPP Concat".split()
    ]
    + [
        "torch.nn.modules." + n
        for n in (
            "conv.Conv2d batchnorm.BatchNorm2d container.Sequential container.ModuleList "
            "pooling.MaxPool2d upsampling.Upsample linear.Identity activation.SiLU "
            "activation.ReLU activation.ReLU6 activation.LeakyReLU activation.Hardswish"
        ).split()
    ]
    + ["numpy.ndarray", "numpy.dtype", "builtins.object", "__builtin__.object"]
)
_RECORDS = {name: _record(name) for name in _RECORD_NAMES}


class _Storage(NamedTuple):
    """Marker for a storage class named in the pickle, or for one storage (key not empty)."""

    dtype: torch.dtype
    key: str = ""
    numel: int = 0


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


class _Tensor(NamedTuple):
    """Where a tensor's values lie; nothing is read before somebody wants them."""

    storage: _Storage
    offset: int
    size: Tuple[int, ...]
    stride: Tuple[int, ...]


def _rebuild_tensor(storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> _Tensor:
    """Marker of the view `size`, `stride`, `offset`; refuses to look outside its storage."""
    if not (isinstance(storage, _Storage) and storage.key):
        raise pickle.UnpicklingError("a tensor without its storage")
    if not (type(size) is tuple and type(stride) is tuple and len(size) == len(stride)):
        raise pickle.UnpicklingError("a tensor with a malformed shape")
    if any(type(v) is not int or v < 0 for v in (offset, *size, *stride)):
        raise pickle.UnpicklingError("a tensor with a malformed shape")
    numel = 1
    for n in size:
        numel *= n
    last = offset + sum((n - 1) * s for n, s in zip(size, stride))
    if numel > storage.numel or (numel and last >= storage.numel):
        raise pickle.UnpicklingError("a tensor larger than its storage")
    return _Tensor(storage, offset, size, stride)


class _Tensors:
    """Reads the values of _Tensor markers from the archive."""

    def __init__(self, archive: zipfile.ZipFile, prefix: str):
        self._archive, self._prefix = archive, prefix

    def read(self, marker: _Tensor) -> torch.Tensor:
        storage = marker.storage
        data = self._archive.read("%s/data/%s" % (self._prefix, storage.key))
        size = torch.empty(0, dtype=storage.dtype).element_size()
        if len(data) != storage.numel * size:
            raise ValueError(
                "storage %s has %d bytes, expected %d"
                % (storage.key, len(data), storage.numel * size)
            )
        if not data:
            return torch.empty(marker.size, dtype=storage.dtype)
        flat = torch.frombuffer(bytearray(data), dtype=storage.dtype)
        return torch.as_strided(flat, marker.size, marker.stride, marker.offset)


def _mapping(*args: Any) -> Dict[Any, Any]:
    """OrderedDict(), dict(), defaultdict(factory): empty; items follow by their own opcodes."""
    if args and isinstance(args[-1], (list, tuple, dict)) and args[-1]:
        raise pickle.UnpicklingError("a dict made from a %s" % type(args[-1]).__name__)
    return {}


def _set(items: Any = ()) -> Set[Any]:
    if not isinstance(items, (list, tuple)):
        raise pickle.UnpicklingError("a set of %s" % type(items).__name__)
    for item in items:
        _check_key(item)
    return set(items)


def _tuple(items: Any = ()) -> Tuple[Any, ...]:
    if not isinstance(items, (list, tuple)):
        raise pickle.UnpicklingError("a torch.Size of %s" % type(items).__name__)
    return tuple(items)


def _parameter(data: Any, *_: Any) -> Any:
    return data


def _reconstruct(cls: Any, *_: Any) -> Any:
    """`copyreg._reconstructor(cls, object, None)`: an empty record."""
    if not (isinstance(cls, type) and issubclass(cls, _Record)):
        raise pickle.UnpicklingError("an object of an unknown class")
    return cls()


def _ignored(*_: Any) -> None:
    """NumPy scalars and arrays (best_fitness and the like): not needed, not decoded."""


_CALLABLES: Dict[str, Callable[..., Any]] = {
    "collections.OrderedDict": _mapping,
    "collections.defaultdict": _mapping,
    "__builtin__.dict": _mapping,
    "builtins.dict": _mapping,
    "__builtin__.set": _set,
    "builtins.set": _set,
    "torch.Size": _tuple,
    "torch._utils._rebuild_tensor_v2": _rebuild_tensor,
    "torch._utils._rebuild_parameter": _parameter,
    "copy_reg._reconstructor": _reconstruct,
    "copyreg._reconstructor": _reconstruct,
    "numpy.core.multiarray.scalar": _ignored,
    "numpy._core.multiarray.scalar": _ignored,
    "numpy.core.multiarray._reconstruct": _ignored,
    "numpy._core.multiarray._reconstruct": _ignored,
    "_codecs.encode": _ignored,
}
_ALLOWED: Dict[str, Any] = {}
_ALLOWED.update(_CALLABLES)
_ALLOWED.update(_STORAGES)
_ALLOWED.update(_RECORDS)

# --- public format: the pickle ----------------------------------------------------------------

MAX_OPCODES = 3_000_000
_OPCODES = frozenset(
    "PROTO STOP FRAME MARK POP POP_MARK GLOBAL STACK_GLOBAL REDUCE NEWOBJ BUILD BINPERSID "
    "PUT BINPUT LONG_BINPUT MEMOIZE GET BINGET LONG_BINGET "
    "NONE NEWTRUE NEWFALSE INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT "
    "STRING BINSTRING SHORT_BINSTRING UNICODE BINUNICODE SHORT_BINUNICODE BINUNICODE8 "
    "BINBYTES SHORT_BINBYTES BINBYTES8 BYTEARRAY8 "
    "EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 EMPTY_LIST LIST APPEND APPENDS "
    "EMPTY_DICT DICT SETITEM SETITEMS EMPTY_SET ADDITEMS".split()
)


class _Refused(pickle.UnpicklingError):
    """A pickle named something outside the allow-list."""


def _check_key(key: Any) -> None:
    """Keys are scalars: hashing a deeply nested tuple would exhaust the stack."""
    if key is not None and type(key) not in (str, int, bool, float):
        raise pickle.UnpicklingError("a dict key that is a %s" % type(key).__name__)


class _RestrictedUnpickler(pickle._Unpickler):  # type: ignore  # the Python one: see below
    """Builds records, markers and plain values; calls only the functions of _CALLABLES.

    The unpickler written in Python keeps its memo in a dict (the C one allocates as far as a
    memo number says) and lets each opcode that calls or sets something be replaced.
    """

    dispatch = dict(pickle._Unpickler.dispatch)  # type: ignore

    def __init__(self, data: bytes):
        super().__init__(io.BytesIO(data), encoding="utf-8")

    def find_class(self, module: str, name: str) -> Any:
        full = "%s.%s" % (module, name)
        if full not in _ALLOWED:
            raise _Refused(full)
        return _ALLOWED[full]

    def persistent_load(self, pid: Any) -> _Storage:
        if not (type(pid) is tuple and len(pid) == 5 and pid[0] == "storage"):
            raise pickle.UnpicklingError("an unknown kind of storage")
        _, storage, key, _, numel = pid
        if not (isinstance(storage, _Storage) and type(key) is str and type(numel) is int):
            raise pickle.UnpicklingError("an unknown kind of storage")
        return _Storage(storage.dtype, key, numel)

    def load_reduce(self) -> None:
        args = self.stack.pop()
        function = self.stack[-1]
        if isinstance(function, type) and issubclass(function, _Record):
            self.stack[-1] = function()
        elif callable(function) and function in _CALLABLES.values() and type(args) is tuple:
            self.stack[-1] = function(*args)
        else:
            raise pickle.UnpicklingError("a call of something that is no known function")

    def load_newobj(self) -> None:
        self.stack.pop()
        self.stack[-1] = _reconstruct(self.stack[-1])

    def load_build(self) -> None:
        state = self.stack.pop()
        target = self.stack[-1]
        if not isinstance(target, _Record):
            if target is None or isinstance(target, dict):
                return  # state of a NumPy value, or attributes of an OrderedDict
            raise pickle.UnpicklingError("attributes for a %s" % type(target).__name__)
        if isinstance(state, dict) and all(type(k) is str for k in state):
            target.__dict__.update(state)

    def load_setitem(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._set_items([key, value])

    def load_setitems(self) -> None:
        self._set_items(self.pop_mark())

    def load_dict(self) -> None:
        items = self.pop_mark()
        self.append({})
        self._set_items(items)

    def load_additems(self) -> None:
        items = self.pop_mark()
        if not isinstance(self.stack[-1], set):
            raise pickle.UnpicklingError("items for something that is no set")
        self.stack[-1].update(_set(items))

    def _set_items(self, items: List[Any]) -> None:
        target = self.stack[-1]
        if not isinstance(target, dict):
            raise pickle.UnpicklingError("items for something that is no dict")
        for i in range(0, len(items), 2):
            _check_key(items[i])
            target[items[i]] = items[i + 1]

    def load_appends(self) -> None:
        items = self.pop_mark()
        if type(self.stack[-1]) is not list:
            raise pickle.UnpicklingError("items for something that is no list")
        self.stack[-1].extend(items)

    def load_append(self) -> None:
        value = self.stack.pop()
        if type(self.stack[-1]) is not list:
            raise pickle.UnpicklingError("items for something that is no list")
        self.stack[-1].append(value)

    dispatch[pickle.REDUCE[0]] = load_reduce
    dispatch[pickle.NEWOBJ[0]] = load_newobj
    dispatch[pickle.BUILD[0]] = load_build
    dispatch[pickle.SETITEM[0]] = load_setitem
    dispatch[pickle.SETITEMS[0]] = load_setitems
    dispatch[pickle.DICT[0]] = load_dict
    dispatch[pickle.ADDITEMS[0]] = load_additems
    dispatch[pickle.APPEND[0]] = load_append
    dispatch[pickle.APPENDS[0]] = load_appends


def _check_opcodes(data: bytes) -> None:
    """Refuse opcodes that no checkpoint needs, before any of them runs."""
    for count, (opcode, _, _) in enumerate(pickletools.genops(data)):
        if opcode.name not in _OPCODES:
            raise pickle.UnpicklingError("the opcode %s" % opcode.name)
        if count > MAX_OPCODES:
            raise pickle.UnpicklingError("more than %d opcodes" % MAX_OPCODES)


def _read_pickle(path: Path, archive: zipfile.ZipFile) -> Tuple[Dict[str, Any], _Tensors]:
    """The content of a torch zip checkpoint, tensors as markers, and their reader.

    Raises InputError for anything but a sane, uncompressed zip whose pickle names known classes.
    """
    infos = archive.infolist()
    _check_archive(path, infos)
    pickles = [i.filename for i in infos if i.filename.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise InputError("%s: a zip without data.pkl is not a checkpoint" % path)
    prefix = pickles[0][: -len("/data.pkl")]
    try:
        _check_byteorder(path, archive, prefix)
        data = archive.read(pickles[0])
        _check_opcodes(data)
        content = _RestrictedUnpickler(data).load()
    except _Refused as e:
        raise InputError(
            "%s: refused, its pickle names %s, which no YOLO-Pose checkpoint needs; "
            "nothing was executed. It is of another network, or hostile" % (path, e)
        ) from e
    except (InputError, OSError, zipfile.BadZipFile):
        raise
    # A damaged pickle may raise nearly anything from the opcode that meets the damage.
    except Exception as e:
        raise InputError(
            "%s: damaged checkpoint (%s); copy or download it again" % (path, _reason(e))
        ) from e
    if not isinstance(content, dict):
        kind = getattr(content, "kind", "") or type(content).__name__
        raise InputError("%s: expected a checkpoint dict, got %s" % (path, kind))
    return content, _Tensors(archive, prefix)


def _check_archive(path: Path, infos: List[zipfile.ZipInfo]) -> None:
    """Refuse compressed members and sizes the file cannot hold (zip bombs)."""
    file_size = path.stat().st_size
    if any(i.compress_type != zipfile.ZIP_STORED for i in infos):
        raise InputError(
            "%s: refused, compressed (TorchScript? a plain zip?), no checkpoint is" % path
        )
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


# --- public format: the module tree -----------------------------------------------------------


def _from_public(content: Dict[str, Any], tensors: _Tensors) -> Checkpoint:
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
    _check_plain(source)
    cfg = dict(source)
    cfg["nc"], cfg["nkpt"] = int(head.nc), int(head.nkpt)
    cfg["dw_conv_kpt"] = bool(getattr(head, "dw_conv_kpt", False))
    state: Dict[str, _Tensor] = {}
    for name, record in _walk(root):
        _check_module(name, record)
        skip = getattr(record, "_non_persistent_buffers_set", ())
        for group in (record._parameters, record._buffers):
            for key, tensor in group.items():
                if isinstance(tensor, _Tensor) and key not in skip:
                    state[name + key] = tensor
    cfg["anchors"] = _anchors_px(state, head, tensors)
    cfg["act_by_layer"] = _activations(layers, cfg)
    model = _build(cfg, state, tensors)
    names = getattr(root, "names", None)
    if isinstance(names, dict):
        names = list(names.values())
    if names is not None:
        model.names = _names(names, model.nc)
    meta: Dict[str, Any] = {"origin": "public checkpoint"}
    if isinstance(content.get("epoch"), int):
        meta["epoch"] = content["epoch"]
    return Checkpoint(model, meta)


def _check_plain(value: Any) -> None:
    """Raise ValueError unless `value` is built of plain values, and small.

    Counts every visit: lists that hold each other many times over are refused, not walked.
    """
    todo, visits = [value], 0
    while todo:
        item = todo.pop()
        visits += 1
        if visits > MAX_PLAIN_VALUES:
            raise ValueError("more than %d values" % MAX_PLAIN_VALUES)
        if type(item) is dict:
            todo.extend(item.keys())
            todo.extend(item.values())
        elif type(item) in (list, tuple):
            todo.extend(item)
        elif item is not None and type(item) not in (bool, int, float, str):
            raise ValueError("%s is not a plain value" % type(item).__name__)


def _children(record: Any) -> Dict[str, Any]:
    return {k: v for k, v in record._modules.items() if v is not None}


def _walk(root: Any) -> Iterator[Tuple[str, Any]]:
    """(prefix, record) of `root` and every module below, `state_dict` prefixes."""
    todo, visits = [("", root)], 0
    while todo:
        name, record = todo.pop()
        visits += 1
        if visits > MAX_PLAIN_VALUES or not isinstance(record, _Record):
            raise ValueError("the module tree is malformed")
        yield name, record
        todo.extend((name + k + ".", v) for k, v in _children(record).items())


# Attributes on which the result depends, with the values that our layers have
_EXPECTED = {
    "torch.nn.modules.batchnorm.BatchNorm2d": {"eps": 1e-3},
    "torch.nn.modules.activation.LeakyReLU": {"negative_slope": 0.01},
    "torch.nn.modules.conv.Conv2d": {"dilation": (1, 1), "padding_mode": "zeros"},
    "torch.nn.modules.upsampling.Upsample": {"mode": "nearest", "scale_factor": 2.0},
}


def _check_module(name: str, record: Any) -> None:
    """Refuse a module that computes something else than our layer of the same tensors would."""
    for key, wanted in _EXPECTED.get(record.kind, {}).items():
        found = getattr(record, key, wanted)
        if found != wanted:
            raise ValueError(
                "%s has %s %s, this toolkit only %s" % (name.rstrip("."), key, found, wanted)
            )


def _anchors_px(state: Dict[str, _Tensor], head: Any, tensors: _Tensors) -> List[List[float]]:
    """Anchors in pixels from the buffers: the trainer may have replaced those of the cfg."""
    key = [k for k in state if k.endswith(".anchors")]
    if len(key) != 1 or not isinstance(head.stride, _Tensor):
        raise ValueError("the last layer holds no anchors")
    size = state[key[0]].size
    if len(size) != 3 or size[2] != 2 or head.stride.size != size[:1] or max(size) > 64:
        raise ValueError("anchors of shape %s" % (size,))
    stride = tensors.read(head.stride).float().view(-1, 1, 1)
    px = tensors.read(state[key[0]]).float() * stride
    return [[round(v, 3) for v in level.flatten().tolist()] for level in px]


def _activations(layers: Any, cfg: Dict[str, Any]) -> Dict[int, str]:
    """Layers whose activation is not the cfg's (the public ti_lite files keep SiLU in the SPP)."""
    default = activation_name(str(cfg.get("act") or "SiLU"))
    different = {}
    for i, layer in enumerate(_children(layers).values()):
        kinds = {
            record.kind.rsplit(".", 1)[-1]
            for name, record in _walk(layer)
            if ("." + name).endswith(".act.")
        }
        if len(kinds) > 1:
            raise ValueError("layer %d mixes the activations %s" % (i, ", ".join(sorted(kinds))))
        if kinds and kinds != {default}:
            different[i] = kinds.pop()
    return different


# --- command line -----------------------------------------------------------------------------


def get_args_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("checkpoint.py", description=__doc__.split("\n")[0])
    parser.add_argument("--weights", required=True, help="checkpoint to read (.pt)")
    parser.add_argument("--out", required=True, help="checkpoint to write (.pt)")
    parser.add_argument("--fp32", action="store_true", help="store FP32 instead of FP16")
    return parser


def main(args: argparse.Namespace) -> None:
    if Path(args.out).resolve() == Path(args.weights).resolve():
        raise InputError("--out %s: would overwrite --weights; name another file" % args.out)
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
