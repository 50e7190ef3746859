"""YOLO-Pose from checkpoint to engine, from Python.

    from utils import Predictor, load_backend, read_image
    poses = Predictor(load_backend("weights/x.onnx"))([read_image("a.jpg")])[0]

Names are imported when they are used (PEP 562), so nothing here needs PyTorch or TensorRT.
"""

import importlib
from typing import Any, List

_WHERE = {
    "utils.errors": ("InputError", "InputWarning"),
    "utils.pose.poses": ("Poses",),
    "utils.pose.letterbox": ("Letterbox",),
    "utils.pose.drawing": ("draw_poses",),
    "utils.dataset.images": ("read_image",),
    "utils.dataset.data_yaml": ("read_data",),
    "utils.dataset.eval_set": ("read_eval_set",),
    "utils.runtime.load": ("load_backend",),
    "utils.runtime.predictor": ("Predictor",),
    "utils.runtime.sources": ("open_source",),
    "utils.runtime.detect": ("DetectConfig", "detect"),
    "utils.evaluation.evaluate": ("evaluate",),
    "utils.evaluation.config": ("EvaluateConfig",),
    "utils.evaluation.run": ("evaluate_files",),
    "utils.training.config": ("TrainConfig",),
    "utils.training.run": ("train",),
    "utils.export.checkpoint": ("ExportConfig", "export_checkpoint"),
    "utils.export.onnx_import": ("ImportConfig", "import_onnx"),
    "utils.export.calibration": ("CalibrationConfig",),
    "utils.export.int8": ("QuantizeConfig", "quantize"),
    "utils.export.engine": ("build_engine",),
    "utils.export.engine_config": ("EngineConfig",),
    "utils.export.deploy": ("DeployConfig", "deploy"),
    "utils.tracking.tracker": ("Tracker", "TrackerConfig"),
    "utils.tracking.smoothing": ("KeypointSmoother", "SmoothConfig"),
}
_MODULE = {name: module for module, names in _WHERE.items() for name in names}
__all__ = sorted(_MODULE)


def __getattr__(name: str) -> Any:
    if name not in _MODULE:
        raise AttributeError("module 'utils' has no attribute %r" % name)
    return getattr(importlib.import_module(_MODULE[name]), name)


def __dir__() -> List[str]:
    return __all__
