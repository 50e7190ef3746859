"""X.onnx -> X-INT8.onnx with explicit Q/DQ pairs, without TensorRT and without a GPU.

quantize(QuantizeConfig("x.onnx", CalibrationConfig("images", calib_num=256)))
"""

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, List, NamedTuple, Optional, Sequence

from utils.device import check_gpu, parse_device
from utils.errors import InputError, check_limits, warn
from utils.export.calibration import CalibrationConfig, calibrate, load_ranges, settle
from utils.export.onnx_file import OnnxFile, read_onnx, refuse_for_int8, runnable
from utils.files import atomic_path, check_output
from utils.graph.analysis import Graph
from utils.graph.pixels import add_pixels
from utils.pose.layout import decode_text
from utils.quantization import qdq
from utils.quantization.images import batches
from utils.quantization.refit import refit
from utils.reading import read_bytes
from utils.trt.sidecar import sha256

if TYPE_CHECKING:
    from onnx import ModelProto

REFIT_IMAGES = 32  # of those chosen, for refit; all they become is in memory, layer by layer
REPORT_IMAGES = 8
REPORT_LINES = 20
RECIPE = "int8_recipe"  # key of the metadata


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
        check_limits(self, {"distill": (0, 1000000)})


class Quantized(NamedTuple):
    """A model with Q/DQ pairs."""

    model: "ModelProto"
    convs: int  # in INT8
    kept: int  # not
    coverage: float  # of the multiply-accumulates
    plan: qdq.QdqPlan


def quantize(config: QuantizeConfig) -> Path:
    """Write X-INT8.onnx beside X.onnx, and its cache where there is none; the path.

    Raises InputError for what cannot be quantised.
    """
    config.calibration.check_path()
    device = distill_device(config)
    source = read_onnx(config.onnx)
    refuse_for_int8(source)
    config.calibration.check_size(source)
    if config.report and len(source.graph.outputs) > 1:
        raise InputError("`report`: takes the ONNX without embedded NMS")
    target = source.path.with_name(source.path.stem + "-INT8.onnx")
    old = read_recipe(target)
    mine = old is not None and old.get("onnx_sha256") == sha256(source.data)
    if not (config.report and mine):
        check_output(target)
    qdq.check_keep(source.graph, config.calibration.keep)
    settled = settle(config.calibration, source)
    calibration, cached, images = settled[:3]
    config = dataclasses.replace(config, calibration=calibration)
    if config.refit or config.distill or config.report:
        settled.say_folder()
    amax = (load_ranges if cached else calibrate)(calibration, source)
    unfitted = config.refit and images is None
    if not config.report and mine and unfitted and old is not None and old["fit"]:
        raise InputError(
            "%s: its weights were fitted on calibration images, and these are not in %s; name "
            "their folder (`calib_path`), or give `no_bias_correction` to leave out the fit"
            % (target, calibration.folder)
        )
    if config.report and mine and cached:
        print("%s stays as it is" % target)
    else:
        if unfitted:
            warn_unfitted(calibration)
        write_quantised(config, source, amax, images=images, device=device, target=target)
    if config.report:
        print_report(calibration, source, amax, images=images)
    return target


def warn_unfitted(calibration: CalibrationConfig) -> None:
    """Tell that the fit is left out, and what is missing for it."""
    warn(
        "weights and biases are not fitted: the calibration images are not in %s; name their "
        "folder (`calib_path`)" % calibration.folder
    )


def write_quantised(
    config: QuantizeConfig,
    source: OnnxFile,
    amax: Dict[str, float],
    *,
    images: Optional[List[str]],
    device: str,
    target: Path,
) -> None:
    """Make X-INT8.onnx of ranges. Args: images: paths, of which some serve the fit."""
    fit = images if config.refit else None
    result = with_pairs(config.calibration, source, amax, images=fit)
    if config.distill:
        distilled(config, source, result, device=device)
    write_onnx(target, result.model, source, fit=bool(fit), distill=config.distill)
    print("%s: %d convolutions in INT8, %d in floating point, %.1f %% of the multiplications in "
          "INT8" % (target, result.convs, result.kept, 100 * result.coverage))  # fmt: skip


def with_pairs(
    config: CalibrationConfig,
    source: OnnxFile,
    amax: Dict[str, float],
    *,
    images: Optional[Sequence[str]],
) -> Quantized:
    """Put Q/DQ pairs into a copy of the model.

    Args: images: paths of calibration images, on which weights and biases are fitted again, see
    refit; None: they stay.
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
    if images:
        size = source.batch or 1
        chosen = batches(
            images[:REFIT_IMAGES],
            hw,
            size,
            letterboxed=config.letterboxed,
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
    check_gpu(gpu, torch.cuda.device_count(), "PyTorch " + torch.__version__)
    return "cpu" if gpu < 0 else "cuda:%d" % gpu


def distilled(config: QuantizeConfig, source: OnnxFile, result: Quantized, *, device: str) -> None:
    """Train the quantised model in place."""
    from utils.quantization.distill import DistillOptions, distill

    calibration = config.calibration
    images = calibration.images()
    options = DistillOptions(config.distill, seed=calibration.calib_seed or 0, device=device)
    losses = distill(
        result.model,
        source.model,
        result.plan,
        paths=images,
        net_hw=calibration.image_hw(source),
        options=options,
        letterboxed=calibration.letterboxed,
    )
    part = max(len(losses) // 10, 1)
    first, last = sum(losses[:part]) / part, sum(losses[-part:]) / part
    print("distilled on %d images, %d steps: loss %.4f at first, %.4f at last"
          % (len(images), len(losses), first, last))  # fmt: skip


def print_report(
    config: CalibrationConfig,
    source: OnnxFile,
    amax: Dict[str, float],
    *,
    images: Optional[Sequence[str]],
) -> None:
    """Table of what each tensor loses, worst first. Raises InputError without images."""
    from utils.quantization.sensitivity import sensitivity

    hw = config.image_hw(source)
    plan = qdq.usual_plan(source.model, source.graph, config.keep, hw=hw)
    size = source.batch or 1
    chosen = (config.images() if images is None else images)[:REPORT_IMAGES]
    read = list(
        batches(chosen, hw, size, letterboxed=config.letterboxed, fixed=size > 1, title=None)
    )
    losses = sensitivity(source.model, plan, qdq.shared_scales(plan, amax), batches=read)
    total = sum(loss.points**2 for loss in losses) ** 0.5
    print("points: mean move of keypoints over the box size; all together about %.5f" % total)
    print("%10s %10s %9s  tensor" % ("points", "score", "range"))
    for loss in losses[:REPORT_LINES]:
        more = " and %d more" % (len(loss.tensors) - 1) if len(loss.tensors) > 1 else ""
        print("%10.5f %10.5f %9.3f  %s%s"
              % (loss.points, loss.score, loss.largest, loss.tensors[0], more))  # fmt: skip


def write_onnx(
    path: Path, model: "ModelProto", source: OnnxFile, *, fit: bool, distill: int = 0
) -> None:
    """Write a model file, whole or not at all; its metadata say `precision` and the `recipe`.

    Args: source: what it was made of. fit: weights are fitted. distill: steps.
    """
    import onnx

    recipe = {"onnx_sha256": sha256(source.data), "fit": fit, "distill": distill}
    values = {"precision": json.dumps("INT8"), RECIPE: json.dumps(recipe)}
    for entry in [e for e in model.metadata_props if e.key in values]:
        model.metadata_props.remove(entry)
    for key, value in values.items():
        entry = model.metadata_props.add()
        entry.key, entry.value = key, value
    if source.pixels:
        copy = onnx.ModelProto()
        copy.CopyFrom(model)
        add_pixels(copy)
        model = copy
    with atomic_path(path) as tmp:
        onnx.save(model, str(tmp))


def read_recipe(path: Path) -> Optional[Dict[str, Any]]:
    """How `write_onnx` made an ONNX; None: it is not there, or was made by something else.

    Raises InputError for a file that cannot be read.
    """
    import onnx

    if not path.is_file():
        return None
    data = read_bytes(path, "ONNX")
    try:
        model = onnx.load_model_from_string(data)
    except Exception:  # protobuf's errors share no base class but Exception: it is no ONNX
        return None
    for entry in model.metadata_props:
        if entry.key == RECIPE:
            recipe = decode_text(entry.value)
            return {"fit": False, **recipe} if isinstance(recipe, dict) else None
    return None
