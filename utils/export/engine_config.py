"""EngineConfig: what is built from an ONNX, checked."""

import dataclasses
from typing import Optional, Sequence

from utils.device import parse_device
from utils.errors import InputError, check_limits
from utils.export.calibration import CalibrationConfig
from utils.runtime.backend import MAX_BATCH

ROUND = ("cancel", "nearest")
QUANT = ("implicit", "explicit")
MAX_WORKSPACE_GB = 1024


@dataclasses.dataclass(frozen=True)
class EngineConfig:
    """What `build_engine` builds. Raises InputError for values that cannot be."""

    onnx: str
    batch_size: Optional[int] = None  # only for a dynamic ONNX [1]
    device: str = "0"  # GPU index
    fp16: bool = False
    int8: bool = False
    round: Optional[str] = None  # of FP16 weights, one of ROUND [cancel where it can be done]
    workspace: float = 4.0  # GB of GPU memory the builder may use
    verbose: bool = False
    # a range of sizes and batches, only for a dynamic ONNX
    dynamic: bool = False
    min_batch: Optional[int] = None  # [1]
    opt_batch: Optional[int] = None  # [batch_size]
    max_batch: Optional[int] = None  # [batch_size]
    min_size: Optional[Sequence[int]] = None  # px, one number or height width [one stride]
    opt_size: Optional[Sequence[int]] = None  # [that of the export]
    max_size: Optional[Sequence[int]] = None  # [opt_size]
    calibration: CalibrationConfig = CalibrationConfig()
    quant: Optional[str] = None  # one of QUANT [what this TensorRT can, implicit first]
    calib_by: Optional[str] = None  # one of CALIBRATORS [tensorrt if implicit, else onnxruntime]
    timing_cache: Optional[str] = None  # file [one in cache_dir, named after TensorRT and GPU]
    no_timing_cache: bool = False
    layers: bool = False  # write X.trt.layers.csv
    opt_level: Optional[int] = None  # 0 to 5, from TensorRT 8.6 on [TensorRT's own, 3]
    dla: Optional[int] = None  # deep learning accelerator of a Jetson

    def __post_init__(self) -> None:
        batches = ("batch_size", "min_batch", "opt_batch", "max_batch")
        check_limits(self, dict.fromkeys(batches, (1, MAX_BATCH)))
        if not 0 < self.workspace <= MAX_WORKSPACE_GB:
            raise InputError(
                "`workspace` %g: expected GB, above 0 and up to %d"
                % (self.workspace, MAX_WORKSPACE_GB)
            )
        if self.opt_level is not None and not 0 <= self.opt_level <= 5:
            raise InputError("`opt_level` %d: expected 0 to 5" % self.opt_level)
        if self.dla is not None and self.dla < 0:
            raise InputError("`dla` %d: expected the number of an accelerator, 0 or 1" % self.dla)
        if self.dla is not None and not (self.fp16 or self.int8):
            raise InputError(
                "`dla`: the accelerator computes in FP16 or INT8; add `fp16` or `int8`"
            )
        if self.round and (self.int8 or not self.fp16):
            raise InputError("`round` goes with `fp16`, without `int8`")
        if not self.dynamic:
            for name in ("min_batch", "opt_batch", "max_batch", "min_size", "max_size"):
                if getattr(self, name) is not None:
                    raise InputError("`%s` goes with `dynamic`" % name)
        if self.timing_cache and self.no_timing_cache:
            raise InputError("`timing_cache` and `no_timing_cache`: one of them")
        if (self.quant or self.calib_by) and not self.int8:
            raise InputError("`quant` and `calib_by` go with `int8`")
        self.gpu_index  # noqa: B018  # raises

    @property
    def gpu_index(self) -> int:
        """`device` as an index. Raises InputError for `cpu`."""
        gpu = parse_device(self.device)
        if gpu is not None and gpu < 0:
            raise InputError("`device` %s: TensorRT builds for a GPU" % self.device)
        return gpu or 0
