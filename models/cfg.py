"""The cfg of a network: its yaml, and whether it describes one.

A cfg is a dict with `nc`, `nkpt`, `depth_multiple`, `width_multiple`, `anchors`, `backbone`, `head`
and optionally `act`, `act_by_layer`, `dw_conv_kpt`, `ch`. Layer rows are `[from, repeats, module,
args]`; modules are LAYER_NAMES, nothing is eval'd.
"""

import math
from pathlib import Path
from typing import Any, Dict, Union

from utils.reading import read_yaml

Cfg = Dict[str, Any]

REQUIRED_KEYS = ("nc", "nkpt", "depth_multiple", "width_multiple", "anchors", "backbone", "head")
# models/yolo.py has the builder of each
LAYER_NAMES = (
    "Conv", "Focus", "ConvFocus", "C3", "SPP", "Concat", "nn.Upsample", "Upsample", "Detect",
)  # fmt: skip
# Far beyond any sensible network; a cfg may come out of a file from elsewhere.
MAX_ROWS, MAX_REPEATS, MAX_CHANNELS, MAX_KERNEL = 100, 30, 8192, 31
MAX_PARAMETERS = 500e6  # 2 GB; l6 has 87 M
MAX_UPSAMPLE = 64  # product of the factors of all layers; they hold no tensors that could tell


def read_cfg(path: Union[str, Path]) -> Cfg:
    """Read a cfg yaml.

    Raises InputError for a file that is no YAML, ValueError (with the file name) for no cfg.
    """
    cfg = read_yaml(path)
    try:
        check_cfg(cfg)
    except ValueError as e:
        raise ValueError("%s: %s" % (path, e)) from e
    return cfg


def _is_int(value: Any, low: int, high: int) -> bool:
    return type(value) is int and low <= value <= high


def check_cfg(cfg: object) -> None:
    """Raise ValueError naming what a cfg misses or has too much of."""
    if not isinstance(cfg, dict):
        raise ValueError("a cfg is a mapping with the keys %s" % ", ".join(REQUIRED_KEYS))
    missing = [k for k in REQUIRED_KEYS if k not in cfg]
    if missing:
        raise ValueError("cfg misses the keys %s" % ", ".join(missing))
    for key, high in (("nc", 10000), ("nkpt", 1000)):
        if not _is_int(cfg[key], 1, high):
            raise ValueError("%s is %s, expected 1 to %d" % (key, cfg[key], high))
    if not _is_int(cfg.get("ch", 3), 1, 64):
        raise ValueError("ch is %s, expected 1 to 64" % cfg["ch"])
    for key in ("depth_multiple", "width_multiple"):
        if type(cfg[key]) not in (int, float) or not 0 < cfg[key] <= 16:
            raise ValueError("%s is %s, expected a number up to 16" % (key, cfg[key]))
    act, by_layer = cfg.get("act"), cfg.get("act_by_layer") or {}
    if not (act is None or isinstance(act, str)):
        raise ValueError("act is %s, expected the name of an activation" % act)
    if not isinstance(by_layer, dict) or not all(isinstance(v, str) for v in by_layer.values()):
        raise ValueError("act_by_layer is not a mapping of layer numbers to activations")
    _check_anchors(cfg["anchors"])
    if not (isinstance(cfg["backbone"], list) and isinstance(cfg["head"], list)):
        raise ValueError("backbone and head are lists of layers")
    rows = cfg["backbone"] + cfg["head"]
    if not 0 < len(rows) <= MAX_ROWS:
        raise ValueError("%d layers, expected 1 to %d" % (len(rows), MAX_ROWS))
    for i, row in enumerate(rows):
        _check_row(i, row)
    factors = [max(abs(row[3][1]), 1) ** row[1] for row in rows if "Upsample" in row[2]]
    if not math.prod(factors) <= MAX_UPSAMPLE:  # NaN is none either
        raise ValueError("the layers upsample by more than %d" % MAX_UPSAMPLE)
    if rows[-1][2] != "Detect":
        raise ValueError("the last layer must be Detect, got %s" % rows[-1][2])
    levels = rows[-1][0]
    if not isinstance(levels, list) or len(levels) != len(cfg["anchors"]):
        raise ValueError("Detect takes one layer for each of %d anchor lists" % len(cfg["anchors"]))


def _check_anchors(anchors: Any) -> None:
    good = isinstance(anchors, list) and 0 < len(anchors) <= 8
    good = good and all(isinstance(a, (list, tuple)) for a in anchors)
    good = good and all(len(a) == len(anchors[0]) and len(a) in range(2, 65, 2) for a in anchors)
    good = good and all(type(v) in (int, float) and 0 < v < 1e5 for a in anchors for v in a)
    if not good:
        raise ValueError("anchors must be one list of w,h pairs (px) a level, all of one length")


def _check_row(i: int, row: Any) -> None:
    """One layer: [from, repeats, module, args]."""
    if not (isinstance(row, (list, tuple)) and len(row) == 4 and str(row[2]) in LAYER_NAMES):
        raise ValueError(
            "layer %d is %s, expected [from, repeats, module, args] with a module of %s"
            % (i, str(row)[:80], ", ".join(sorted(LAYER_NAMES)))
        )
    source, repeats, module, args = row
    sources = source if isinstance(source, list) else [source]
    low = -max(i, 1)  # -1 is the image for layer 0, later ones count back to layer 0
    if not sources or not all(_is_int(s, low, i - 1) for s in sources):
        raise ValueError("layer %d %s: from %s is no earlier layer" % (i, module, source))
    if isinstance(source, list) != (module in ("Concat", "Detect")):
        raise ValueError("layer %d %s: from %s" % (i, module, source))
    if not _is_int(repeats, 1, MAX_REPEATS):
        raise ValueError("layer %d %s: repeats %s" % (i, module, repeats))
    if not isinstance(args, (list, tuple)):
        raise ValueError("layer %d %s: args %s are no list" % (i, module, args))
    if "Upsample" in module and not (len(args) == 3 and type(args[1]) in (int, float)):
        raise ValueError("layer %d %s: args %s, expected None, factor, mode" % (i, module, args))
    if module in ("Conv", "Focus", "ConvFocus", "C3", "SPP"):
        if not (args and _is_int(args[0], 1, MAX_CHANNELS)):
            raise ValueError("layer %d %s: %s output channels" % (i, module, args[:1]))
        flat = [b for a in args[1:] for b in (a if isinstance(a, (list, tuple)) else [a])]
        if not all(type(n) is bool or _is_int(n, 1, MAX_KERNEL) for n in flat):
            raise ValueError(
                "layer %d %s: args %s, expected whole numbers from 1 to %d after the channels"
                % (i, module, str(args)[:80], MAX_KERNEL)
            )
    elif module == "Concat" and not all(_is_int(a, 1, 1) for a in args):
        raise ValueError("layer %d %s: args %s, expected [1]" % (i, module, str(args)[:80]))
