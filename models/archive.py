"""The restricted reader of torch zip archives: plain values, records and tensor markers.

`read_archive` resolves an allow-list of names. Module classes become empty records whose attributes
are read, never run; tensors become markers of where their values lie, read only when wanted; any
other name ends the load before anything is called. See checkpoint.py for what is made of it.
"""

import io
import pickle
import pickletools
import sys
import zipfile
from pathlib import Path
from typing import Any, Callable, ClassVar, Dict, List, NamedTuple, Set, Tuple

import torch

from utils.errors import InputError, one_line

MAX_PICKLE_BYTES = 64 << 20  # the pickle of an l6 model has 0.2 MB, its optimizer a little more
MAX_PLAIN_VALUES = 100_000  # values of a cfg, or modules of a tree
MAX_OPCODES = 3_000_000


class Record:
    """Stands in for a pickled object: keeps its attributes, has no behaviour."""

    kind = ""  # the qualified name in the pickle


def _record(kind: str) -> type:
    return type("_Record", (Record,), {"kind": kind})


_RECORD_NAMES = (
    ["models.yolo." + n for n in "Model Detect PoseHead".split()]
    + ["models.head.PoseHead"]
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


class TensorMarker(NamedTuple):
    """Where a tensor's values lie; nothing is read before somebody wants them."""

    storage: _Storage
    offset: int
    size: Tuple[int, ...]
    stride: Tuple[int, ...]


def _rebuild_tensor(storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> TensorMarker:
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
    return TensorMarker(storage, offset, size, stride)


class TensorReader:
    """Reads the values of TensorMarker markers from the archive."""

    def __init__(self, archive: zipfile.ZipFile, prefix: str):
        self._archive, self._prefix = archive, prefix

    def read(self, marker: TensorMarker) -> torch.Tensor:
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
    if not (isinstance(cls, type) and issubclass(cls, Record)):
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


class _RestrictedUnpickler(pickle._Unpickler):
    """Builds records, markers and plain values; calls only the functions of _CALLABLES.

    The unpickler written in Python keeps its memo in a dict (the C one allocates as far as a
    memo number says) and lets each opcode that calls or sets something be replaced.
    """

    stack: List[Any]
    append: Callable[[Any], None]
    pop_mark: Callable[[], List[Any]]
    dispatch: ClassVar[Dict[int, Callable[[Any], None]]] = dict(pickle._Unpickler.dispatch)

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
        if isinstance(function, type) and issubclass(function, Record):
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
        if not isinstance(target, Record):
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


def read_archive(path: Path, archive: zipfile.ZipFile) -> Tuple[Dict[str, Any], TensorReader]:
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
            "%s: damaged checkpoint (%s); copy or download it again" % (path, one_line(e))
        ) from e
    if not isinstance(content, dict):
        kind = getattr(content, "kind", "") or type(content).__name__
        raise InputError("%s: expected a checkpoint dict, got %s" % (path, kind))
    return content, TensorReader(archive, prefix)


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


def check_plain(value: object) -> None:
    """Raise ValueError unless `value` is built of plain values, and small.

    Counts every visit: lists that hold each other many times over are refused, not walked.
    """
    todo: List[Any] = [value]
    visits = 0
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
