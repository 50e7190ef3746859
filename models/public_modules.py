"""The module tree of a public YOLO-Pose checkpoint -> cfg and state_dict of our network.

The authors pickled whole modules; archive.py reads them as records that keep their attributes.
"""

from typing import Any, Dict, Iterator, List, NamedTuple, Tuple

from models.archive import Record, TensorMarker, TensorReader, check_plain
from models.cfg import MAX_ROWS, Cfg
from models.common import activation_name

MAX_MODULES, MAX_NAME = 10_000, 200  # of a tree, and characters of a name; l6 has 700 and 30


class PublicNetwork(NamedTuple):
    """What the modules say, unchecked but for their form."""

    cfg: Cfg
    state: Dict[str, TensorMarker]  # by the names of our state_dict
    names: object  # of the classes, None: none
    meta: Dict[str, Any]  # of the Checkpoint


def read_modules(content: Dict[str, Any], tensors: TensorReader) -> PublicNetwork:
    """The module tree of a checkpoint; the EMA weights if there are any. Raises ValueError."""
    root = content.get("ema") or content.get("model")
    if not isinstance(root, Record) or root.kind != "models.yolo.Model":
        found = getattr(root, "kind", type(root).__name__)
        raise ValueError("expected a models.yolo.Model under 'model', found %s" % found)
    layers = _children(root)["model"]
    if not 0 < len(_children(layers)) <= MAX_ROWS:
        raise ValueError("%d layers" % len(_children(layers)))
    head = list(_children(layers).values())[-1]
    source = getattr(root, "yaml", None) or getattr(root, "cfg", None)
    if not isinstance(source, dict):
        raise ValueError("the model has no cfg (attribute yaml)")
    check_plain(source)
    cfg = dict(source)
    cfg["nc"], cfg["nkpt"] = int(head.nc), int(head.nkpt)
    cfg["dw_conv_kpt"] = bool(getattr(head, "dw_conv_kpt", False))
    state: Dict[str, TensorMarker] = {}
    for name, record in _walk(root):
        _check_module(name, record)
        skip = getattr(record, "_non_persistent_buffers_set", ())
        for group in (record._parameters, record._buffers):
            for key, tensor in group.items():
                if isinstance(tensor, TensorMarker) and key not in skip:
                    state[name + key] = tensor
    cfg["anchors"] = _anchors_px(state, head, tensors)
    cfg["act_by_layer"] = _activations(layers, cfg)
    names = getattr(root, "names", None)
    if isinstance(names, dict):
        names = list(names.values())
    meta: Dict[str, Any] = {"origin": "public checkpoint"}
    if isinstance(content.get("epoch"), int):
        meta["epoch"] = content["epoch"]
    return PublicNetwork(cfg, state, names, meta)


def _children(record: Any) -> Dict[str, Any]:
    return {k: v for k, v in record._modules.items() if v is not None}


def _walk(root: Any) -> Iterator[Tuple[str, Any]]:
    """(prefix, record) of `root` and every module below, `state_dict` prefixes."""
    todo, visits = [("", root)], 0
    while todo:
        name, record = todo.pop()
        visits += 1
        small = visits <= MAX_MODULES and len(name) <= MAX_NAME
        if not (small and isinstance(record, Record)):
            raise ValueError("the module tree is malformed")
        yield name, record
        todo.extend((name + k + ".", v) for k, v in _children(record).items())


# Attributes on which the result depends, with the values that our layers have
_EXPECTED: Dict[str, Dict[str, Any]] = {
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


def _anchors_px(
    state: Dict[str, TensorMarker], head: Any, tensors: TensorReader
) -> List[List[float]]:
    """Anchors in pixels from the buffers: the trainer may have replaced those of the cfg."""
    key = [k for k in state if k.endswith(".anchors")]
    if len(key) != 1 or not isinstance(head.stride, TensorMarker):
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
