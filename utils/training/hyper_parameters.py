"""The hyper-parameters of a training run: a yaml file, checked.

    hyp = read_hyp("data/hyp.scratch.yaml")
    hyp.lr0

The keys are those of the YOLOv5 family. The last ones below have a default: older files lack them.
"""

from pathlib import Path
from typing import Dict, NamedTuple, Tuple, Union

from utils.errors import InputError
from utils.reading import is_number, read_yaml, shown


class Hyp(NamedTuple):
    """See data/hyp.scratch.yaml for what each one means."""

    lr0: float
    lrf: float
    momentum: float
    weight_decay: float
    warmup_epochs: float
    warmup_momentum: float
    warmup_bias_lr: float
    box: float
    kpt: float
    cls: float
    cls_pw: float
    obj: float
    obj_pw: float
    iou_t: float
    anchor_t: float
    fl_gamma: float
    hsv_h: float
    hsv_s: float
    hsv_v: float
    degrees: float
    translate: float
    scale: float
    shear: float
    perspective: float
    flipud: float
    fliplr: float
    mosaic: float
    mixup: float
    zoom: float = 1.0  # middle of the zoom's range, zoom * (1 +- scale)
    kpt_conf: float = 0.05  # gain of the keypoint-confidence loss
    obj_oks: float = 0.0  # share of OKS in the objectness target, the rest is IoU
    collage: float = 0.0  # probability that an image smaller than the size is one of several
    blank: float = 0.0  # probability that an image shows nothing at all
    close_mosaic: float = 0.0  # share of the run, at its end, without mosaic and mixup
    close_norm: float = 0.0  # share of the run, at its end, normalised as validation does


PROBABILITIES = (
    "flipud", "fliplr", "mosaic", "mixup", "obj_oks", "collage", "blank", "close_mosaic",
    "close_norm",
)  # fmt: skip
# (lowest, highest) of the others that have bounds
BOUNDS: Dict[str, Tuple[float, float]] = {
    "lr0": (0, 10), "lrf": (0, 1), "momentum": (0, 0.9999), "warmup_momentum": (0, 0.9999),
    "weight_decay": (0, 1), "warmup_epochs": (0, 1e6), "anchor_t": (1, 100),
    "box": (0, 1e3), "kpt": (0, 1e3), "cls": (0, 1e3), "obj": (0, 1e3), "kpt_conf": (0, 1e3),
    "cls_pw": (0, 1e3), "obj_pw": (0, 1e3), "fl_gamma": (0, 10),
    "hsv_h": (0, 0.5), "hsv_s": (0, 1), "hsv_v": (0, 1), "scale": (0, 0.95),
    "zoom": (0.05, 4), "translate": (0, 0.9),
    "degrees": (0, 180), "shear": (0, 45), "perspective": (0, 0.01),
}  # fmt: skip


def read_hyp(path: Union[str, Path]) -> Hyp:
    """Read and check a hyper-parameter file.

    Raises InputError that names the file and the keys that are missing, unknown, no number or out
    of range.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError("`hyp` %s: no such file; data/hyp.scratch.yaml is one" % path)
    return check_hyp(read_yaml(path, "`hyp` %s" % path), "`hyp` %s" % path)


def check_hyp(content: object, where: str) -> Hyp:
    """A dict of hyper-parameters -> Hyp. Raises InputError that begins with `where`."""
    if not isinstance(content, dict):
        raise InputError("%s: expected keys with numbers, lr0: 0.01 and so on" % where)
    missing = [k for k in Hyp._fields if k not in content and k not in Hyp._field_defaults]
    unknown = [str(k) for k in content if k not in Hyp._fields]
    if missing or unknown:
        parts = ["misses " + ", ".join(missing)] if missing else []
        parts += ["has unknown keys " + ", ".join(unknown)] if unknown else []
        raise InputError("%s: %s; compare data/hyp.scratch.yaml" % (where, "; ".join(parts)))
    values = {}
    for key, value in content.items():
        if not is_number(value):
            raise InputError(
                "%s: %s is %s, expected a number (YAML wants 1.0e-4, not 1e-4)"
                % (where, key, shown(value, 40))
            )
        low, high = (0.0, 1.0) if key in PROBABILITIES else BOUNDS.get(key, (-1e9, 1e9))
        if not low <= value <= high:
            raise InputError("%s: %s is %g, expected %g to %g" % (where, key, value, low, high))
        values[key] = float(value)
    return Hyp(**values)
