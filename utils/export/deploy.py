"""deploy: an ONNX, and an engine of it, into a folder for DeepStream or Triton.

deploy(DeployConfig("weights/x-NMS.onnx", deepstream="ds"))
"""

import dataclasses
from pathlib import Path
from typing import Optional, Sequence

from utils.device import parse_device
from utils.errors import InputError, check_limits, warn
from utils.export.deepstream import (
    CONFIG,
    DeepStreamSettings,
    check_for_deepstream,
    write_deepstream,
)
from utils.export.deploy_model import DeployEngine, DeployModel, read_engine, read_model
from utils.export.triton import TritonSettings, check_for_triton, write_triton
from utils.runtime.backend import MAX_BATCH
from utils.runtime.writers import safe_name

MAX_FRAME = 16384  # px


@dataclasses.dataclass(frozen=True)
class DeployConfig:
    """What `deploy` writes. Raises InputError for values that cannot be."""

    onnx: str
    engine: Optional[str] = None  # built of the ONNX by models/export_TRT.py
    deepstream: Optional[str] = None  # folder
    triton: Optional[str] = None  # model repository
    name: Optional[str] = None  # of the model in Triton [that of the file]
    max_batch: int = 8  # Triton: images at a time, of a model that takes any number
    instances: int = 1  # Triton: of the model, at the same time
    frame_size: Sequence[int] = (1080, 1920)  # px height width of DeepStream's stream muxer
    int8: bool = False  # DeepStream builds an INT8 engine with the cache
    cache_dir: str = "caches"  # where calibration caches lie
    device: str = "0"  # GPU index; Triton: also cpu

    def __post_init__(self) -> None:
        if not self.deepstream and not self.triton:
            raise InputError("nothing to write: give `deepstream` or `triton`, and a folder")
        if len(self.frame_size) != 2 or not 2 <= min(self.frame_size) <= max(self.frame_size):
            raise InputError("`frame_size`: expected height width, px")
        if max(self.frame_size) > MAX_FRAME:
            raise InputError("`frame_size`: expected at most %d px" % MAX_FRAME)
        check_limits(self, dict.fromkeys(("max_batch", "instances"), (1, MAX_BATCH)))
        if self.name is not None and safe_name(self.name) != self.name:
            raise InputError("`name` %s: expected letters, digits, - _ ." % self.name)
        if self.gpu is None and (self.deepstream or self.engine):
            raise InputError("`device` %s: this needs the index of a GPU" % self.device)
        if self.int8 and self.engine:
            raise InputError("`int8`: `engine` has its precision built in; drop one of them")

    @property
    def gpu(self) -> Optional[int]:
        """GPU index, None: the CPU."""
        index = parse_device(self.device)
        return None if index is not None and index < 0 else index or 0


def deploy(config: DeployConfig) -> None:
    """Write what the config asks for. Raises InputError where the server cannot run the model."""
    model = read_model(config.onnx)
    engine = read_engine(config.engine, model) if config.engine else None
    if config.deepstream:
        check_for_deepstream(model, engine)
    if config.triton:
        check_for_triton(model, engine)
    # all is known to work before anything is written
    if config.deepstream:
        _deepstream(config, model, engine, folder=Path(config.deepstream))
    if config.triton:
        _triton(config, model, engine, folder=Path(config.triton))


def _deepstream(
    config: DeployConfig, model: DeployModel, engine: Optional[DeployEngine], *, folder: Path
) -> None:
    cache = Path(config.cache_dir) / (model.path.stem + ".cache")
    if config.int8 and not cache.is_file():
        raise InputError(
            "`int8`: no %s; write it with models/export_INT8.py `onnx` %s" % (cache, model.path)
        )
    if engine is None:
        warn(
            "gst-nvinfer will build the engine itself and may compute boxes in FP16, in steps of "
            "0.5 px above 512; better build it with models/export_TRT.py and give `engine`"
        )
    hw = (config.frame_size[0], config.frame_size[1])
    found = cache if cache.is_file() else None
    settings = DeepStreamSettings(hw, config.gpu or 0, config.int8, cache=found)
    written = write_deepstream(folder, model, engine, settings=settings)
    print("%s: %s" % (folder, ", ".join(written)))
    print("%s, frames of %dx%d; next, on the device with DeepStream:" % (model.embedded_nms, *hw))
    print("  cd %s && cmake -S . -B build && cmake --build build" % folder)
    print("  python3 pose_probe.py --uri file:///path/of/video.mp4   # or %s in your app" % CONFIG)


def _triton(
    config: DeployConfig, model: DeployModel, engine: Optional[DeployEngine], *, folder: Path
) -> None:
    settings = TritonSettings(
        name=config.name or safe_name(model.path.stem),
        max_batch=config.max_batch,
        instances=config.instances,
        gpu=config.gpu,
    )
    target, written = write_triton(folder, model, engine, settings=settings)
    most = written["max_batch_size"]
    batch = "up to %d images at a time" % most if most else "batch of the model, no batching"
    print("%s: %s, %s" % (target, written["backend"], batch))
    print("next: tritonserver --model-repository=%s" % folder.resolve())
    print("  python deploy/triton/client.py --model %s --images data/images" % settings.name)
