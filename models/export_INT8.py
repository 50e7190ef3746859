"""Calibrate an ONNX for INT8 on any machine: no TensorRT, no GPU.

    python models/export_INT8.py --onnx weights/yolov5l6_pose.onnx \
        --calib_path data/custom_kpts/images --calib_num 256
    python models/export_INT8.py --onnx weights/yolov5l6_pose.onnx --report
    python models/export_INT8.py --onnx weights/yolov5l6_pose.onnx --distill 300   # needs PyTorch
    python detect_multi_backend.py --weights weights/yolov5l6_pose-INT8.onnx --source data/images

Writes caches/X.cache, the ranges in TensorRT's format, and X-INT8.onnx beside X.onnx, with explicit
Q/DQ pairs. Either goes to the machine that builds the engine: X.onnx and X.cache for TensorRT 8.5
to 10.x, X-INT8.onnx for every version. X-INT8.onnx runs in ONNX Runtime, so test_multi_backend.py
shows what INT8 costs before an engine is built. With a cache of this model there, no images are
needed, but for --distill, which trains X-INT8.onnx to predict what X.onnx predicts on them.
"""

import argparse
import sys
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional, Tuple

if not __package__:
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from utils import cli
from utils.errors import InputError, one_line
from utils.files import atomic_path

ALGORITHMS = ("MinMax", "Entropy", "Percentile", "Mse", "Foreground")
DEFAULT_METHOD = "Foreground"
REFIT_IMAGES = 32  # of those chosen, for refit; all they become is in memory, layer by layer
REPORT_IMAGES = 8
REPORT_LINES = 20


def add_calibration_flags(parser: argparse.ArgumentParser, method: str) -> None:
    """The flags of commands.md that export_INT8.py and export_TRT.py share."""

    def add(flag: str, **settings: Any) -> None:
        parser.add_argument(flag, flag.replace("_", "-"), **settings)

    add("--calib_path", default="data/custom_kpts/images", metavar="DIR",
        help="calibration images: a folder with its subfolders, or a list file "
        "[data/custom_kpts/images]")  # fmt: skip
    add("--calib_num", type=int, default=1024, help="how many of them, chosen at random [1024]")
    add("--calib_batch", type=int, default=128, help="images at a time [128]; a static ONNX has "
        "its own batch, and all --calib_num images are used nevertheless")  # fmt: skip
    add("--calib_imgsz", type=int, nargs="+", default=[832], metavar="PX",
        help="size of the calibration images, one number or height width [832]; a static ONNX "
        "has its own")  # fmt: skip
    add("--calib_method", default=None, metavar="METHOD", help=method)
    add("--calib_letterbox", action="store_true", default=True,
        help="letterbox the calibration images, as detect and test do [default]")  # fmt: skip
    add("--calib_stretch", dest="calib_letterbox", action="store_false",
        help="squeeze the calibration images to the full size instead")  # fmt: skip
    add("--calib_seed", type=int, default=0, help="which images are chosen [0]")
    add("--cache_dir", default="caches", help="folder of <onnx stem>.cache [caches]")
    parser.add_argument("--keep", nargs="*", default=[], metavar="NAME", help="further "
        "convolutions that stay in floating point, by parts of their names")  # fmt: skip


def get_args_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "export_INT8.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--onnx", required=True, help="raw or end2end ONNX, opset 13 or later")
    add_calibration_flags(
        parser,
        "how ranges are chosen: MinMax, Entropy, Percentile (99.99), Mse, the least error, or "
        "Foreground, the least error over the signal inside the boxes that the model finds [%s]"
        % DEFAULT_METHOD,
    )
    parser.add_argument("--recalibrate", action="store_true", help="also where a cache is there")
    parser.add_argument("--no-bias-correction", action="store_true",
        help="leave weights and biases as they are")  # fmt: skip
    parser.add_argument("--distill", type=int, default=0, metavar="STEPS",
        help="train the INT8 network for so many steps to predict what the FP32 one does, on the "
        "calibration images [0]")  # fmt: skip
    parser.add_argument("--device", default="", help="where --distill trains: a GPU index such as "
        "0, or cpu [GPU 0 if there is one]")  # fmt: skip
    parser.add_argument("--report", action="store_true",
        help="print how much each tensor loses, alone in INT8")  # fmt: skip
    return parser


class Source(NamedTuple):
    """An ONNX file to be quantised."""

    path: Path
    data: bytes
    model: Any  # onnx.ModelProto
    graph: Any  # utils.graph.analysis.Graph
    batch: Optional[int]  # None: any
    hw: Optional[Tuple[int, int]]  # None: any


def read_onnx(path: str) -> Source:
    """Load and look at an ONNX. Raises InputError for a file that is none of a YOLO-Pose kind."""
    try:
        import onnx
    except ImportError as e:
        raise InputError("building needs the onnx package: pip install onnx") from e
    from utils.graph.analysis import Graph

    file = Path(path)
    if file.suffix.lower() != ".onnx":
        raise InputError("--onnx %s: expected an .onnx file" % path)
    if not file.is_file():
        raise InputError("--onnx %s: no such file" % path)
    data = file.read_bytes()
    try:
        model = onnx.load_model_from_string(data)
        onnx.checker.check_model(model)
    except Exception as e:  # protobuf's and onnx's errors share no base class but Exception
        if "EfficientNMS" not in str(e):  # NVIDIA's op is unknown to the checker
            raise InputError("--onnx %s: not a valid ONNX (%s)" % (path, one_line(e, 150))) from e
    graph = Graph(model)
    entries = [i for i in model.graph.input if i.name in graph.inputs]
    dims = list(entries[0].type.tensor_type.shape.dim) if len(entries) == 1 else []
    if len(dims) != 4 or dims[1].dim_value != 3 or not graph.convs:
        raise InputError(
            "--onnx %s: not a YOLO-Pose model: %d inputs, expected one of (B, 3, H, W)"
            % (path, len(entries))
        )
    b, _, h, w = (d.dim_value or None for d in dims)
    return Source(file, data, model, graph, b, None if h is None or w is None else (h, w))


def check_calibration(args: argparse.Namespace) -> None:
    """Errors of the calibration flags that need no work."""
    for flag in ("calib_num", "calib_batch"):
        if getattr(args, flag) < 1:
            raise InputError("--%s %d: expected at least 1" % (flag, getattr(args, flag)))
    names = {name.lower(): name for name in ALGORITHMS}
    if args.calib_method is not None:
        if args.calib_method.lower() not in names:
            raise InputError(
                "--calib_method %s: expected %s" % (args.calib_method, ", ".join(ALGORITHMS))
            )
        args.calib_method = names[args.calib_method.lower()]


def cache_path(args: argparse.Namespace, source: Source) -> Path:
    """`<cache_dir>/<onnx stem>.cache`."""
    return Path(args.cache_dir) / (source.path.stem + ".cache")


def calibration_hw(args: argparse.Namespace, source: Source) -> Tuple[int, int]:
    """(height, width) of calibration images: the model's own if it is static."""
    from utils.pose.letterbox import parse_size, stride_multiple

    if source.hw is not None:
        return source.hw
    return stride_multiple(parse_size(args.calib_imgsz), 64)


def calibration_batches(args: argparse.Namespace, source: Source, fixed: bool = False) -> Any:
    """(iterator of batches, batch size). Raises InputError without enough images."""
    from utils.quantization.images import batches, choose_pictures

    size = source.batch or min(args.calib_batch, args.calib_num)
    if source.batch is not None and args.calib_num % size:
        print("calibration: %d images in batches of %d (the model's own); the last is filled up "
              "with the first ones" % (args.calib_num, size))  # fmt: skip
    pictures = choose_pictures(args.calib_path, args.calib_num, args.calib_seed)
    fixed = fixed or source.batch is not None
    hw = calibration_hw(args, source)
    return batches(pictures, hw, size, args.calib_letterbox, fixed), size


def calibrate(args: argparse.Namespace, source: Source, method: str) -> Dict[str, float]:
    """Largest magnitudes of the model's tensors, from images, by ONNX Runtime on this CPU."""
    from utils.quantization import activation_ranges, qdq

    if source.batch is None:
        args.calib_batch = min(args.calib_batch, 8)  # all activations of a batch are in memory
    images, _ = calibration_batches(args, source)
    names = source.graph.float_tensors()
    model = runnable(source.model)
    histograms = activation_ranges.collect(model, images, names)
    plan = qdq.usual_plan(model, source.graph, args.keep, calibration_hw(args, source))
    return activation_ranges.choose(histograms, method, qdq.read_together(plan))


def runnable(model: Any) -> Any:
    """The model as ONNX Runtime takes it: TensorRT's NMS plugin replaced by standard ops."""
    import onnx

    from utils.graph.nms import has_efficientnms, swap_efficientnms

    if not has_efficientnms(model):
        return model
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    swap_efficientnms(copy)
    return copy


def needed_tensors(source: Source) -> List[str]:
    """Tensors a cache must know for this model: inputs of convolutions that may be INT8."""
    from utils.quantization.qdq import depthwise, make_plan

    final = [conv.output[0] for conv in source.graph.head]
    plan = make_plan(source.graph, depthwise(source.graph), final)
    return list(dict.fromkeys(conv.input[0] for conv in plan.convs))


def load_cache(path: Path, source: Source) -> Dict[str, float]:
    """Largest magnitudes from a cache file. Raises InputError for that of another model."""
    from utils.quantization.cache import check_match, read_cache

    cache = read_cache(path)
    check_match(cache, needed_tensors(source), path, source.path.name)
    form = "TRT-%s-%s" % (cache.version, cache.algorithm)
    print("calibration from %s (%d tensors, format %s); pictures are not looked at, --recalibrate "
          "would" % (path, len(cache.scales), form))  # fmt: skip
    return cache.amax


class Quantised(NamedTuple):
    """A model with Q/DQ pairs."""

    model: Any
    convs: int  # in INT8
    kept: int  # not
    coverage: float  # of the multiply-accumulates
    plan: Any  # utils.quantization.qdq.Plan


def quantised(
    args: argparse.Namespace, source: Source, amax: Dict[str, float], images: bool
) -> Quantised:
    """Put Q/DQ pairs into a copy of the model.

    Args: images: fit weights and biases again on the calibration images, see refit.
    """
    import onnx

    from utils.graph.analysis import Graph
    from utils.quantization import qdq
    from utils.quantization.refit import refit

    model = onnx.ModelProto()
    model.CopyFrom(source.model)
    graph = Graph(model)
    hw = calibration_hw(args, source)
    plain = runnable(model)
    plan = qdq.usual_plan(plain, graph, args.keep, hw)
    coverage = qdq.coverage(plain, plan.convs, hw)
    scales = qdq.shared_scales(plan, amax)
    qdq.insert(model, plan, scales)
    if images:
        from utils.quantization.images import batches, choose_pictures

        pictures = choose_pictures(args.calib_path, args.calib_num, args.calib_seed)
        size = source.batch or 1
        chosen = batches(
            pictures[:REFIT_IMAGES], hw, size, args.calib_letterbox, size > 1, "read for the fit"
        )
        view = runnable(model)
        refit(view, plan, runnable(source.model), list(chosen), progress=True)
        if view is not model:
            corrected = {c.name: c for c in view.graph.initializer}
            for constant in model.graph.initializer:
                constant.CopyFrom(corrected.get(constant.name, constant))
    return Quantised(model, len(plan.convs), len(graph.convs) - len(plan.convs), coverage, plan)


def check_distill(args: argparse.Namespace) -> str:
    """PyTorch's name of the device. Raises InputError for what --distill cannot run with."""
    if args.distill < 0:
        raise InputError("--distill %d: expected a number of steps" % args.distill)
    if not args.distill:
        return "cpu"
    try:
        import torch
    except ImportError as e:
        raise InputError("--distill needs PyTorch: pip install torch (%s)" % e) from e
    from utils.runtime.backend import parse_device

    gpu = parse_device(args.device)
    if gpu is None:
        gpu = 0 if torch.cuda.is_available() else -1
    if gpu >= torch.cuda.device_count():
        raise InputError(
            "--device %d: PyTorch %s sees %d CUDA GPUs; use --device cpu"
            % (gpu, torch.__version__, torch.cuda.device_count())
        )
    return "cpu" if gpu < 0 else "cuda:%d" % gpu


def distilled(args: argparse.Namespace, source: Source, result: Quantised, device: str) -> None:
    """Train the quantised model in place."""
    from utils.quantization.distill import Options, distill
    from utils.quantization.images import choose_pictures

    pictures = choose_pictures(args.calib_path, args.calib_num, args.calib_seed)
    options = Options(args.distill, seed=args.calib_seed, device=device)
    hw = calibration_hw(args, source)
    losses = distill(
        result.model, source.model, result.plan, pictures, hw, options, args.calib_letterbox
    )
    part = max(len(losses) // 10, 1)
    first, last = sum(losses[:part]) / part, sum(losses[-part:]) / part
    print("distilled on %d images, %d steps: loss %.4f at first, %.4f at last"
          % (len(pictures), len(losses), first, last))  # fmt: skip


def print_report(args: argparse.Namespace, source: Source, amax: Dict[str, float]) -> None:
    """Table of what each tensor loses, worst first."""
    from utils.quantization import qdq
    from utils.quantization.images import batches, choose_pictures
    from utils.quantization.sensitivity import sensitivity

    hw = calibration_hw(args, source)
    plan = qdq.usual_plan(source.model, source.graph, args.keep, hw)
    count = min(REPORT_IMAGES, args.calib_num)
    pictures = choose_pictures(args.calib_path, args.calib_num, args.calib_seed)[:count]
    size = source.batch or 1
    images = list(batches(pictures, hw, size, args.calib_letterbox, size > 1, None))
    losses = sensitivity(source.model, plan, qdq.shared_scales(plan, amax), images)
    total = sum(loss.points**2 for loss in losses) ** 0.5
    print("points: mean move of keypoints over the box size; all together about %.5f" % total)
    print("%10s %10s %9s  tensor" % ("points", "score", "range"))
    for loss in losses[:REPORT_LINES]:
        more = " and %d more" % (len(loss.tensors) - 1) if len(loss.tensors) > 1 else ""
        print("%10.5f %10.5f %9.3f  %s%s"
              % (loss.points, loss.score, loss.largest, loss.tensors[0], more))  # fmt: skip


def main(args: argparse.Namespace) -> None:
    from utils.quantization.cache import make_cache, write_cache

    check_calibration(args)
    device = check_distill(args)
    source = read_onnx(args.onnx)
    refuse_quantised(source)
    if args.report and len(source.graph.outputs) > 1:
        raise InputError("--report: takes the ONNX without NMS inside")
    path = cache_path(args, source)
    method = args.calib_method or DEFAULT_METHOD
    fresh = args.recalibrate or not path.is_file()
    if fresh:
        amax = calibrate(args, source, method)
        algorithm = "Entropy" if method == "Entropy" else "MinMax"
        cache = make_cache(amax, algorithm)
        write_cache(path, cache)
        amax = cache.amax  # rounded as in the file, so that it is the same with and without one
        print("calibration on %d images (%s): %s, %d tensors"
              % (args.calib_num, method, path, len(amax)))  # fmt: skip
    else:
        amax = load_cache(path, source)
        if args.calib_method is not None:
            print("warning: --calib_method is not used, %s is there; --recalibrate makes it anew"
                  % path)  # fmt: skip
    result = quantised(args, source, amax, fresh and not args.no_bias_correction)
    if args.distill:
        distilled(args, source, result, device)
    target = source.path.with_name(source.path.stem + "-INT8.onnx")
    write_onnx(target, result.model)
    print("%s: %d convolutions in INT8, %d in floating point, %.1f %% of the multiplications in "
          "INT8" % (target, result.convs, result.kept, 100 * result.coverage))  # fmt: skip
    if args.report:
        print_report(args, source, amax)


def refuse_quantised(source: Source) -> None:
    """Raise InputError for a model that is INT8 or FP16 already."""
    from utils.graph.fp16 import has_qdq, is_half

    if has_qdq(source.model):
        raise InputError("--onnx %s: has Q/DQ pairs already" % source.path)
    if is_half(source.model):
        raise InputError("--onnx %s: FP16 weights; export it without --half for INT8" % source.path)


def write_onnx(path: Path, model: Any) -> None:
    """Write a model file, whole or not at all, with `precision` in its metadata."""
    import onnx

    for entry in [e for e in model.metadata_props if e.key == "precision"]:
        model.metadata_props.remove(entry)
    entry = model.metadata_props.add()
    entry.key, entry.value = "precision", '"INT8"'
    with atomic_path(path) as tmp:
        onnx.save(model, str(tmp))


if __name__ == "__main__":
    cli.run(main, get_args_parser())
