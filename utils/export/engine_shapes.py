"""Input shapes of an engine: what its config asks of a static, half-static or dynamic ONNX."""

from typing import Any, Optional, Tuple

from utils.errors import InputError
from utils.export.engine_config import EngineConfig
from utils.export.onnx_file import OnnxFile
from utils.pose.letterbox import parse_size, stride_multiple
from utils.trt.api import Profile
from utils.trt.sidecar import onnx_metadata


def input_shapes(config: EngineConfig, source: OnnxFile) -> Optional[Profile]:
    """The Profile of the engine, None for a static ONNX. Raises InputError."""
    name = source.path.name
    if source.batch is not None and source.hw is not None:
        _refuse_for_static(config, source)
        return None
    _refuse_static_part(config, source)
    known = onnx_metadata(source.model)
    stride = known.get("stride", 64)

    def size(values: Any, default: Any, parameter: str) -> Tuple[int, int]:
        hw = parse_size(default if values is None else values, parameter)
        if stride_multiple(hw, stride) != hw:
            raise InputError("`%s` %d %d: expected multiples of %d" % (parameter, *hw, stride))
        return hw

    if config.opt_size is None and source.hw is None and "imgsz" not in known:
        raise InputError("`opt_size`: %s does not say for which size; name one" % name)
    middle = source.hw or size(config.opt_size, known.get("imgsz"), "opt_size")
    batch = source.batch or config.batch_size or 1
    if not config.dynamic:
        return Profile(*[(batch, 3) + middle] * 3)
    if None not in (config.batch_size, config.max_batch) and batch > (config.max_batch or 0):
        raise InputError("`batch_size` %d: above `max_batch` %d" % (batch, config.max_batch or 0))
    smallest = source.hw or (min(stride, middle[0]), min(stride, middle[1]))
    low = source.hw or size(config.min_size, smallest, "min_size")
    high = source.hw or size(config.max_size, middle, "max_size")
    batches = [config.min_batch or 1, config.opt_batch or batch, config.max_batch or batch]
    batches[1] = config.opt_batch or min(max(batch, batches[0]), batches[2])
    if source.batch is not None:
        batches = [source.batch] * 3
    shapes = [(b, 3) + hw for b, hw in zip(batches, (low, middle, high))]
    if any(a > b for x, y in zip(shapes, shapes[1:]) for a, b in zip(x, y)):
        raise InputError(
            "`min_size`, `opt_size`, `max_size` and the batches must not shrink: %s"
            % ", ".join("x".join(map(str, s)) for s in shapes)
        )
    return Profile(*shapes)


def _refuse_for_static(config: EngineConfig, source: OnnxFile) -> None:
    """Raise InputError for a parameter that a static ONNX does not vary in."""
    name = source.path.name
    if config.dynamic:
        raise InputError("`dynamic`: %s is static; export it with `dynamic`" % name)
    if config.batch_size not in (None, source.batch):
        raise InputError(
            "`batch_size` %d: %s is static, batch %d; drop it, or export the model again with "
            "`batch_size` %d or `dynamic`"
            % (config.batch_size, name, source.batch, config.batch_size)  # type: ignore
        )
    if config.opt_size and parse_size(config.opt_size, "opt_size") != source.hw:
        raise InputError("`opt_size`: %s is static, %d %d" % ((name,) + source.hw))  # type: ignore


def _refuse_static_part(config: EngineConfig, source: OnnxFile) -> None:
    """Raise InputError for a parameter that asks a half-static ONNX for what it does not vary in.

    Ours vary in all; other exporters also make a dynamic batch of one size, or the reverse.
    """
    name = source.path.name
    for key in ("batch_size", "min_batch", "opt_batch", "max_batch"):
        if source.batch is not None and getattr(config, key) not in (None, source.batch):
            raise InputError(
                "`%s` %d: the batch of %s is static, %d"
                % (key, getattr(config, key), name, source.batch)
            )
    for key in ("min_size", "opt_size", "max_size"):
        values = getattr(config, key)
        if source.hw is not None and values and parse_size(values, key) != source.hw:
            raise InputError("`%s`: the size of %s is static, %d %d" % (key, name, *source.hw))


def channels_last(profile: Optional[Profile]) -> Optional[Profile]:
    """Shapes (B, 3, H, W) as (B, H, W, 3), those of a uint8 input."""
    return profile and Profile(*((b, h, w, c) for b, c, h, w in profile))
