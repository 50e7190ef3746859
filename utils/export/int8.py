"""X.onnx -> X-INT8.onnx with explicit Q/DQ pairs, without TensorRT and without a GPU.

quantize(QuantizeConfig("x.onnx", CalibrationConfig("images", calib_num=256)))
"""

import dataclasses
from pathlib import Path
from typing import Any, Dict, NamedTuple

from utils.device import parse_device
from utils.errors import InputError
from utils.export.calibration import CalibrationConfig, calibrate, load_ranges
from utils.export.onnx_file import OnnxFile, read_onnx, refuse_quantised, runnable
from utils.files import atomic_path
from utils.graph.analysis import Graph
from utils.quantization import qdq
from utils.quantization.images import batches
from utils.quantization.refit import refit

REFIT_IMAGES = 32  # of those chosen, for refit; all they become is in memory, layer by layer
REPORT_IMAGES = 8
REPORT_LINES = 20


@dataclasses.dataclass(frozen=True)
class QuantizeConfig:
    """What `quantize` does. Raises InputError for values that cannot be."""

    onnx: str
    calibration: CalibrationConfig = CalibrationConfig()
    refit: bool = True  # fit weights and biases again, see utils/quantization/refit.py
    distill: int = 0  # steps of label-free training towards the FP32 network; needs PyTorch
    device: str = ""  # of distill: a GPU index or cpu, empty: GPU 0 if there is one
    report: bool = False  # print what each tensor loses, alone in INT8

    def __post_init__(self) -> None:
        if self.distill < 0:
            raise InputError("`distill` %d: expected a number of steps" % self.distill)


class Quantized(NamedTuple):
    """A model with Q/DQ pairs."""

    model: Any
    convs: int  # in INT8
    kept: int  # not
    coverage: float  # of the multiply-accumulates
    plan: qdq.Plan


def quantize(config: QuantizeConfig) -> Path:
    """Write X-INT8.onnx beside X.onnx, and its cache where there is none; the path.

    Raises InputError for what cannot be quantised.
    """
    device = distill_device(config)
    source = read_onnx(config.onnx)
    refuse_quantised(source)
    if config.report and len(source.graph.outputs) > 1:
        raise InputError("`report`: takes the ONNX without embedded NMS")
    calibration = config.calibration
    fresh = calibration.recalibrate or not calibration.cache_path(source).is_file()
    amax = (calibrate if fresh else load_ranges)(calibration, source)
    result = with_pairs(calibration, source, amax, fit=fresh and config.refit)
    if config.distill:
        distilled(config, source, result, device=device)
    target = source.path.with_name(source.path.stem + "-INT8.onnx")
    write_onnx(target, result.model)
    print("%s: %d convolutions in INT8, %d in floating point, %.1f %% of the multiplications in "
          "INT8" % (target, result.convs, result.kept, 100 * result.coverage))  # fmt: skip
    if config.report:
        print_report(calibration, source, amax)
    return target


def with_pairs(
    config: CalibrationConfig, source: OnnxFile, amax: Dict[str, float], *, fit: bool
) -> Quantized:
    """Put Q/DQ pairs into a copy of the model.

    Args: fit: fit weights and biases again on the calibration images, see refit.
    """
    import onnx

    model = onnx.ModelProto()
    model.CopyFrom(source.model)
    graph = Graph(model)
    hw = config.image_hw(source)
    plain = runnable(model)
    plan = qdq.usual_plan(plain, graph, config.keep, hw=hw)
    coverage = qdq.coverage(plain, plan.convs, hw)
    qdq.insert(model, plan, qdq.shared_scales(plan, amax))
    if fit:
        size = source.batch or 1
        images = config.images()[:REFIT_IMAGES]
        chosen = batches(
            images,
            hw,
            size,
            letterboxed=config.calib_letterbox,
            fixed=size > 1,
            title="read for the fit",
        )
        view = runnable(model)
        refit(view, plan, runnable(source.model), images=list(chosen), progress=True)
        if view is not model:
            fitted = {c.name: c for c in view.graph.initializer}
            for constant in model.graph.initializer:
                constant.CopyFrom(fitted.get(constant.name, constant))
    return Quantized(model, len(plan.convs), len(graph.convs) - len(plan.convs), coverage, plan)


def distill_device(config: QuantizeConfig) -> str:
    """PyTorch's name of the device. Raises InputError for what distillation cannot run with."""
    if not config.distill:
        return "cpu"
    try:
        import torch
    except ImportError as e:
        raise InputError("`distill` needs PyTorch: pip install torch (%s)" % e) from e
    gpu = parse_device(config.device)
    if gpu is None:
        gpu = 0 if torch.cuda.is_available() else -1
    if gpu >= torch.cuda.device_count():
        raise InputError(
            "`device` %d: PyTorch %s sees %d CUDA GPUs; use `device` cpu"
            % (gpu, torch.__version__, torch.cuda.device_count())
        )
    return "cpu" if gpu < 0 else "cuda:%d" % gpu


def distilled(config: QuantizeConfig, source: OnnxFile, result: Quantized, *, device: str) -> None:
    """Train the quantised model in place."""
    from utils.quantization.distill import Options, distill

    calibration = config.calibration
    images = calibration.images()
    options = Options(config.distill, seed=calibration.calib_seed, device=device)
    losses = distill(
        result.model,
        source.model,
        result.plan,
        pictures=images,
        net_hw=calibration.image_hw(source),
        options=options,
        letterboxed=calibration.calib_letterbox,
    )
    part = max(len(losses) // 10, 1)
    first, last = sum(losses[:part]) / part, sum(losses[-part:]) / part
    print("distilled on %d images, %d steps: loss %.4f at first, %.4f at last"
          % (len(images), len(losses), first, last))  # fmt: skip


def print_report(config: CalibrationConfig, source: OnnxFile, amax: Dict[str, float]) -> None:
    """Table of what each tensor loses, worst first."""
    from utils.quantization.sensitivity import sensitivity

    hw = config.image_hw(source)
    plan = qdq.usual_plan(source.model, source.graph, config.keep, hw=hw)
    size = source.batch or 1
    chosen = config.images()[:REPORT_IMAGES]
    images = list(
        batches(chosen, hw, size, letterboxed=config.calib_letterbox, fixed=size > 1, title=None)
    )
    losses = sensitivity(source.model, plan, qdq.shared_scales(plan, amax), batches=images)
    total = sum(loss.points**2 for loss in losses) ** 0.5
    print("points: mean move of keypoints over the box size; all together about %.5f" % total)
    print("%10s %10s %9s  tensor" % ("points", "score", "range"))
    for loss in losses[:REPORT_LINES]:
        more = " and %d more" % (len(loss.tensors) - 1) if len(loss.tensors) > 1 else ""
        print("%10.5f %10.5f %9.3f  %s%s"
              % (loss.points, loss.score, loss.largest, loss.tensors[0], more))  # fmt: skip


def write_onnx(path: Path, model: Any) -> None:
    """Write a model file, whole or not at all, with `precision` in its metadata."""
    import onnx

    for entry in [e for e in model.metadata_props if e.key == "precision"]:
        model.metadata_props.remove(entry)
    entry = model.metadata_props.add()
    entry.key, entry.value = "precision", '"INT8"'
    with atomic_path(path) as tmp:
        onnx.save(model, str(tmp))
