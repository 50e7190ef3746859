"""Build a TensorRT engine from an ONNX, with TensorRT 8.5 to 11 or TensorRT-RTX.

    python models/export_TRT.py --onnx weights/yolov5l6_pose.onnx --batch-size 1 --fp16
    python models/export_TRT.py --onnx weights/yolov5l6_pose.onnx --batch-size 1 --device 0 --int8 \
        --calib_path data/custom_kpts/images --calib_num 1024 --calib_batch 128 --calib_imgsz 832 \
        --cache_dir caches
    python models/export_TRT.py --onnx weights/yolov5l6_pose-dynamic.onnx --fp16 --dynamic \
        --max-batch 8
    python models/export_TRT.py --onnx weights/yolov5l6_pose-INT8.onnx

X.trt (FP32), X-FP16.trt or X-INT8.trt beside the ONNX: named after what was built. X.trt.json
beside it carries names, keypoints, size, precision, version and GPU. An engine runs on the GPU and
TensorRT that built it, so build on the machine that runs it.

With caches/X.cache there, --int8 needs no images. See docs/tensorrt.md for what each flag does in
which version, and models/export_INT8.py for calibration without TensorRT.
"""

import argparse
import collections
import contextlib
import re
import sys
import time
from pathlib import Path
from typing import Any, Dict, NamedTuple, Optional, Tuple

if not __package__:
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from models import export_INT8
from models.export_INT8 import Source
from models.export_onnx import ROUND
from utils import cli
from utils.errors import InputError
from utils.files import atomic_path, check_writable
from utils.pipeline import elapsed

QUANT = ("implicit", "explicit")


def get_args_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "export_TRT.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--onnx", required=True, help="ONNX of models/export_onnx.py or export_INT8.py")
    add("--batch-size", type=int, default=None, help="batch of the engine, only for a dynamic "
        "ONNX (for a static one: its own) [1]")  # fmt: skip
    add("--device", default="0", help="GPU index [0]")
    add("--fp16", action="store_true", help="FP16; boxes and points are computed in FP32")
    add("--int8", action="store_true", help="INT8, the rest in FP16")
    add("--round", choices=ROUND, default=None, help="with --fp16: cancel, weights are rounded so "
        "that their errors cancel, which takes minutes and needs onnxruntime; nearest [cancel "
        "where onnxruntime is there; a --half ONNX is rounded already]")  # fmt: skip
    add("--workspace", type=float, default=4, metavar="GB",
        help="GPU memory the builder may use, GB [4]")  # fmt: skip
    add("--verbose", action="store_true", help="everything TensorRT says")
    add("--dynamic", action="store_true", help="an engine for a range of sizes and batches, only "
        "for a dynamic ONNX")  # fmt: skip
    for word, what in (
        ("min", "smallest"), ("opt", "most common, it is tuned for that"), ("max", "largest")
    ):  # fmt: skip
        add("--%s-batch" % word, type=int, default=None, metavar="N", help="with --dynamic: %s "
            "batch [%s]" % (what, "1" if word == "min" else "--batch-size"))  # fmt: skip
        add("--%s-size" % word, type=int, nargs="+", default=None, metavar="PX",
            help="%s size, one number or height width [%s]"
            % (what, "one stride" if word == "min" else "that of the export"))  # fmt: skip
    export_INT8.add_calibration_flags(
        parser,
        "MinMax or Entropy [MinMax] by TensorRT's own calibrator; with --calib_by onnxruntime also "
        "Percentile, Mse and Foreground [Foreground]",
    )
    add("--quant", choices=QUANT, default=None, help="how --int8 is done: implicit, ranges beside "
        "the network (8.5 to 10.x); explicit, Q/DQ pairs in it (all versions) [what this TensorRT "
        "can, implicit first]")  # fmt: skip
    add("--calib_by", "--calib-by", choices=("tensorrt", "onnxruntime"), default=None,
        help="who collects ranges [tensorrt if --quant implicit, else onnxruntime]")  # fmt: skip
    add("--recalibrate", action="store_true", help="calibrate also where a cache is there")
    add("--timing-cache", default=None, metavar="FILE",
        help="kernel timings, read and written: a second build of the same network takes seconds "
        "[a file in --cache_dir, named after TensorRT and GPU]")  # fmt: skip
    add("--no-timing-cache", action="store_true", help="time every kernel anew, keep nothing")
    add("--layers", action="store_true", help="write X.trt.layers.csv and print how many layers "
        "run in which precision (8.5 and newer)")  # fmt: skip
    add("--opt-level", type=int, default=None, metavar="0..5",
        help="how long the builder looks, from 8.6 on [TensorRT's own, 3]")  # fmt: skip
    add("--dla", type=int, default=None, metavar="CORE",
        help="run on this deep learning accelerator of a Jetson; the rest on the GPU")  # fmt: skip
    return parser


def check_args(args: argparse.Namespace) -> None:
    """Errors that need no work."""
    for flag in ("batch_size", "min_batch", "opt_batch", "max_batch"):
        value = getattr(args, flag)
        if value is not None and value < 1:
            raise InputError("--%s %d: expected at least 1" % (flag.replace("_", "-"), value))
    if not 0 < args.workspace <= 1024:
        raise InputError("--workspace %g: expected GB, above 0 and up to 1024" % args.workspace)
    if args.opt_level is not None and not 0 <= args.opt_level <= 5:
        raise InputError("--opt-level %d: expected 0 to 5" % args.opt_level)
    if args.dla is not None and args.dla < 0:
        raise InputError("--dla %d: expected the number of an accelerator, 0 or 1" % args.dla)
    if args.dla is not None and not (args.fp16 or args.int8):
        raise InputError("--dla: the accelerator computes in FP16 or INT8; add --fp16 or --int8")
    if args.round and (args.int8 or not args.fp16):
        raise InputError("--round goes with --fp16, without --int8")
    if not args.dynamic:
        for flag in ("min_batch", "opt_batch", "max_batch", "min_size", "max_size"):
            if getattr(args, flag) is not None:
                raise InputError("--%s goes with --dynamic" % flag.replace("_", "-"))
    if args.timing_cache and args.no_timing_cache:
        raise InputError("--timing-cache and --no-timing-cache: one of them")
    if (args.quant or args.calib_by) and not args.int8:
        raise InputError("--quant and --calib_by go with --int8")
    export_INT8.check_calibration(args)


def input_shapes(args: argparse.Namespace, source: Source) -> Any:
    """The api.Profile of the engine, None for a static ONNX. Raises InputError."""
    from utils.pose.letterbox import parse_size, stride_multiple
    from utils.trt.api import Profile
    from utils.trt.sidecar import onnx_metadata

    name = source.path.name
    if source.batch is not None and source.hw is not None:
        if args.dynamic:
            raise InputError("--dynamic: %s is static; export it with --dynamic" % name)
        if args.batch_size not in (None, source.batch):
            raise InputError(
                "--batch-size %d: %s is static, batch %d; drop the flag, or export it again with "
                "--batch-size %d or --dynamic"
                % (args.batch_size, name, source.batch, args.batch_size)
            )
        if args.opt_size and tuple(parse_size(args.opt_size)) != source.hw:
            raise InputError("--opt-size: %s is static, %d %d" % ((name,) + source.hw))
        return None
    _refuse_static_part(args, source)
    known = onnx_metadata(source.model)
    stride = known.get("stride", 64)

    def size(values: Any, default: Any, flag: str) -> Tuple[int, int]:
        hw = tuple(default) if values is None else parse_size(values)
        if stride_multiple(hw, stride) != hw:
            raise InputError("--%s %d %d: expected multiples of %d" % (flag, *hw, stride))
        return hw  # type: ignore

    if args.opt_size is None and source.hw is None and "imgsz" not in known:
        raise InputError("--opt-size: %s does not say for which size; name one" % name)
    middle = source.hw or size(args.opt_size, known.get("imgsz"), "opt-size")
    batch = source.batch or args.batch_size or 1
    if not args.dynamic:
        return Profile(*[(batch, 3) + middle] * 3)
    smallest = source.hw or (min(stride, middle[0]), min(stride, middle[1]))
    low = source.hw or size(args.min_size, smallest, "min-size")
    high = source.hw or size(args.max_size, middle, "max-size")
    batches = [args.min_batch or 1, args.opt_batch or batch, args.max_batch or batch]
    batches[1] = args.opt_batch or min(max(batch, batches[0]), batches[2])
    if source.batch is not None:
        batches = [source.batch] * 3
    shapes = [(b, 3) + hw for b, hw in zip(batches, (low, middle, high))]
    if any(a > b for x, y in zip(shapes, shapes[1:]) for a, b in zip(x, y)):
        raise InputError(
            "--min, --opt and --max sizes and batches must not shrink: %s"
            % ", ".join("x".join(map(str, s)) for s in shapes)
        )
    return Profile(*shapes)


def _refuse_static_part(args: argparse.Namespace, source: Source) -> None:
    """Raise InputError for a flag that asks a half-static ONNX for what it does not vary in.

    Ours vary in all; other exporters also make a dynamic batch of one size, or the reverse.
    """
    from utils.pose.letterbox import parse_size

    name = source.path.name
    for flag in ("batch_size", "min_batch", "opt_batch", "max_batch"):
        if source.batch is not None and getattr(args, flag) not in (None, source.batch):
            raise InputError(
                "--%s %d: the batch of %s is static, %d"
                % (flag.replace("_", "-"), getattr(args, flag), name, source.batch)
            )
    for flag in ("min_size", "opt_size", "max_size"):
        values = getattr(args, flag)
        if source.hw is not None and values and tuple(parse_size(values)) != source.hw:
            raise InputError(
                "--%s: the size of %s is static, %d %d" % (flag.replace("_", "-"), name, *source.hw)
            )


class Prepared(NamedTuple):
    """What goes to TensorRT."""

    data: bytes  # the ONNX
    precision: str  # FP32, FP16, INT8
    fp16: bool
    int8: bool
    calibrator: Any
    float32: Tuple[str, ...]  # names whose layers stay FP32
    not_int8: Tuple[str, ...]
    explicit: bool  # Q/DQ pairs say what is INT8
    how: Dict[str, Any]  # for the side file


def prepare(args: argparse.Namespace, source: Source, trt: Any, profile: Any) -> Prepared:
    """Choose the precision and make the ONNX this TensorRT needs for it."""
    import onnx

    from utils.graph.fp16 import has_qdq, is_half, to_half
    from utils.graph.nms import has_efficientnms, swap_efficientnms

    model = onnx.ModelProto()
    model.CopyFrom(source.model)
    if has_efficientnms(model) and not trt.has_plugin("EfficientNMS_ONNX_TRT"):
        swap_efficientnms(model)
        print("%s has no EfficientNMS plugin: its NMS is replaced by standard ops" % trt)
    source = source._replace(model=model)
    if args.quant == "implicit" and has_qdq(model):
        raise InputError(
            "--quant implicit: %s has Q/DQ pairs; name the ONNX it was made of" % source.path.name
        )
    int8 = args.int8 or has_qdq(model)
    fp16 = args.fp16 or is_half(model) or int8  # INT8 leaves the rest to FP16
    calibrator, how = None, {}
    if args.int8 and not has_qdq(model):
        export_INT8.refuse_quantised(source)
        calibrator, source, how = quantise(args, source, trt, profile)
        model = source.model
    elif int8:
        how = {"quantization": "explicit"}
        if not args.int8:
            print("%s has Q/DQ pairs: building INT8, the rest in FP16" % source.path.name)
    elif fp16 and not args.fp16:
        print("%s has FP16 weights: building FP16" % source.path.name)
    if fp16 and not int8 and not is_half(model) and args.round != "nearest":
        fine_rounding(args, source, profile)
    float32, not_int8 = precise_names(model, args.keep)
    if trt.typed and fp16:
        to_half(model)
    precision = "INT8" if int8 else "FP16" if fp16 else "FP32"
    explicit = how.get("quantization") == "explicit"
    return Prepared(
        model.SerializeToString(),
        precision,
        fp16,
        int8,
        calibrator,
        float32,
        () if explicit else not_int8,
        explicit,
        how,
    )


def fine_rounding(args: argparse.Namespace, source: Source, profile: Any) -> None:
    """Round the weights of a float32 model for FP16, in place, so that errors cancel.

    TensorRT then has nothing left to round. Raises InputError where --round asks for it and it
    cannot be done; otherwise a line says so.
    """
    from utils.quantization import adaptive_rounding

    print("rounding the weights so that errors cancel; --round nearest leaves that out", flush=True)
    try:
        hw = source.hw if profile is None else profile.common[2:]
        adaptive_rounding.prepare(source.model, adaptive_rounding.sample_pictures(hw))
    except InputError as e:
        if args.round:
            raise InputError("--round %s: %s" % (args.round, e)) from e
        print("weights are rounded to the nearest FP16: %s" % e)


def precise_names(model: Any, keep: Any) -> Tuple[Tuple[str, ...], Tuple[str, ...]]:
    """(names of the decode and NMS: FP32, names of what is no INT8), nodes and their outputs.

    Raises InputError for a `keep` that names nothing.
    """
    from utils.graph.analysis import Graph
    from utils.quantization.qdq import check_keep, depthwise, matches

    graph = Graph(model)
    check_keep(graph, keep)
    behind = [n for n in graph.nodes if id(n) in graph.decode]
    float32 = [name for n in behind for name in (n.name, *n.output) if name]
    words = list(keep) + depthwise(graph)
    convs = graph.head + [conv for conv in graph.convs if matches(conv, words)]
    return tuple(float32), tuple(name for c in convs for name in (c.name, *c.output) if name)


def quantise(
    args: argparse.Namespace, source: Source, trt: Any, profile: Any
) -> Tuple[Any, Source, Dict[str, Any]]:
    """(calibrator or None, the ONNX to build, facts for the side file) of --int8."""
    from utils.quantization.cache import make_cache, write_cache

    quant = args.quant or ("implicit" if trt.calibrates else "explicit")
    if quant == "implicit" and not trt.calibrates:
        raise InputError("--quant implicit: %s has no calibrators; use --quant explicit" % trt)
    by = args.calib_by or ("tensorrt" if quant == "implicit" else "onnxruntime")
    if by == "tensorrt" and quant == "explicit":
        raise InputError("--calib_by tensorrt goes with --quant implicit")
    path = export_INT8.cache_path(args, source)
    cached = path.is_file() and not args.recalibrate
    method = args.calib_method or ("MinMax" if by == "tensorrt" else export_INT8.DEFAULT_METHOD)
    facts: Dict[str, Any] = {"quantization": quant, "cache": path.name}
    if not cached:
        check_writable(path)
    if by == "tensorrt" and not cached:
        if method not in ("MinMax", "Entropy"):
            raise InputError(
                "--calib_method %s: TensorRT's calibrator knows MinMax and Entropy; add --calib_by "
                "onnxruntime" % method
            )
        facts["calibration"] = calibration_facts(args, method, "TensorRT")
        return tensorrt_calibrator(args, source, trt, method, path, profile), source, facts
    if cached:
        if args.calib_method is not None:
            print("warning: --calib_method is not used, %s is there; --recalibrate makes it anew"
                  % path)  # fmt: skip
        amax = export_INT8.load_cache(path, source)
    else:
        amax = export_INT8.calibrate(args, source, method)
        algorithm = "Entropy" if method == "Entropy" else "MinMax"
        write_cache(path, make_cache(amax, algorithm, cache_version(trt)))
        facts["calibration"] = calibration_facts(args, method, "ONNX Runtime")
        print("calibration on %d images (%s): %s" % (args.calib_num, method, path))
    if quant == "implicit":
        return tensorrt_calibrator(args, source, trt, "MinMax", path, profile), source, facts
    done = export_INT8.quantised(args, source, amax, images=not cached)
    target = source.path.with_name(source.path.stem + "-INT8.onnx")
    kept = target.exists()  # perhaps distilled, or tested: not ours to replace
    if not kept:
        export_INT8.write_onnx(target, done.model)
    print("%s: %d convolutions in INT8, %.1f %% of the multiplications"
          % (source.path.name if kept else target, done.convs, 100 * done.coverage))  # fmt: skip
    if kept:
        print("note: %s is there and stays as it is; this engine is built of pairs made anew, "
              "--onnx %s builds that file" % (target.name, target))  # fmt: skip
    return None, source._replace(model=done.model), facts


def cache_version(trt: Any) -> str:
    """The version a cache made here carries; TensorRT-RTX counts its own and reads no caches."""
    return trt.version if trt.name == "TensorRT" else ""


def calibration_facts(args: argparse.Namespace, method: str, by: str) -> Dict[str, Any]:
    """How the ranges were found, for the side file."""
    return {
        "method": method,
        "by": by,
        "images": args.calib_num,
        "letterbox": args.calib_letterbox,
    }


def tensorrt_calibrator(
    args: argparse.Namespace, source: Source, trt: Any, method: str, path: Path, profile: Any
) -> Any:
    """A calibrator that reads `path` if that is there, else images, and then writes it."""
    from utils.quantization.cache import adapted, format_cache, parse_cache, read_cache, write_cache
    from utils.trt.api import make_calibrator
    from utils.trt.memory import open_memory

    use_cache = path.is_file() and (not args.recalibrate or args.calib_by == "onnxruntime")
    content = images = None
    # a dynamic ONNX is calibrated in batches of its engine: one of 128 may not fit a small GPU
    hw = export_INT8.calibration_hw(args, source)
    size = source.batch or (profile.common[0] if profile is not None else 1)
    if use_cache:
        content = format_cache(adapted(read_cache(path), trt.version, method))
    else:
        fixed = source._replace(batch=size, hw=hw)
        images, size = export_INT8.calibration_batches(args, fixed)

    def keep(data: bytes) -> None:
        if not use_cache:
            write_cache(path, parse_cache(data))

    memory = None if use_cache else open_memory(gpu_index(args))
    return make_calibrator(trt, method, memory, images, (size, 3, *hw), content, keep)


def gpu_index(args: argparse.Namespace) -> int:
    """--device as an index. Raises InputError for `cpu`."""
    from utils.runtime.backend import parse_device

    gpu = parse_device(args.device)
    if gpu is not None and gpu < 0:
        raise InputError("--device %s: TensorRT builds for a GPU" % args.device)
    return gpu or 0


def engine_path(onnx: Path, precision: str) -> Path:
    """X.onnx -> X.trt, X-FP16.trt or X-INT8.trt; X-INT8.onnx -> X-INT8.trt."""
    suffix = "" if precision == "FP32" else "-" + precision
    stem = onnx.stem[: -len("-INT8")] if onnx.stem.endswith("-INT8") else onnx.stem
    return onnx.with_name(stem + suffix + ".trt")


def find_gpu(args: argparse.Namespace, trt: Any) -> Optional[Any]:
    """Memory of the GPU to build for. TensorRT-RTX also builds without one: None."""
    from utils.trt.memory import open_memory

    try:
        return open_memory(gpu_index(args))
    except InputError:
        if trt.name == "TensorRT-RTX":
            print("no CUDA GPU: %s builds nevertheless, for every GeForce RTX" % trt)
            return None
        raise


def main(args: argparse.Namespace) -> None:
    from utils.graph.fp16 import is_half
    from utils.trt.api import BuildSettings, build, import_tensorrt, read_network

    check_args(args)
    gpu_index(args)
    source = export_INT8.read_onnx(args.onnx)
    profile = input_shapes(args, source)
    trt = import_tensorrt(args.verbose)
    memory = find_gpu(args, trt)
    if memory is not None and args.workspace * (1 << 30) > memory.total_bytes():
        raise InputError(
            "--workspace %g: %s has %.1f GB of memory; choose less"
            % (args.workspace, memory.device_name, memory.total_bytes() / (1 << 30))
        )
    timing = timing_path(args, trt, memory)
    prepared = prepare(args, source, trt, profile)
    target = engine_path(source.path, prepared.precision)
    check_writable(target)
    settings = BuildSettings(
        prepared.fp16 and not trt.typed,
        prepared.int8 and not trt.typed,
        args.workspace,
        profile,
        prepared.calibrator,
        prepared.float32,
        prepared.not_int8,
        # TensorRT 8.5 cannot build Q/DQ pairs under binding precisions (filterQDQFormats)
        not prepared.explicit,
        args.opt_level,
        args.dla,
        timing,
        args.layers,
        args.fp16 or is_half(source.model),
    )
    known = timing is not None and timing.is_file()
    print("building %s with %s; %s" % (target, trt, "kernel timings from %s" % timing if known
          else "the first build on a GPU takes minutes"), flush=True)  # fmt: skip
    started = time.monotonic()
    # The builder takes the GPU that is current, which without this is the first one.
    with memory.active() if memory is not None else contextlib.nullcontext(), elapsed("build"):
        network = read_network(trt, args.onnx, prepared.data)
        built = build(trt, network, settings)
    if timing is not None and built.timing_cache:
        with atomic_path(timing) as tmp:
            tmp.write_bytes(built.timing_cache)
    write_engine(args, source, trt, memory, profile, prepared, built.plan, target)
    if args.layers:
        write_layers(trt, built.plan, memory, target)
    size, spent = len(built.plan) / 1e6, time.monotonic() - started
    print("%s: %s, %s, %.1f MB, built in %.0f s" % (target, prepared.precision, trt, size, spent))


def timing_path(args: argparse.Namespace, trt: Any, memory: Any) -> Optional[Path]:
    """Where the kernel timings are kept; None: nowhere. They hold for one version and GPU."""
    if args.no_timing_cache or trt.name == "TensorRT-RTX":  # RTX keeps none
        return None
    if args.timing_cache is not None:
        path = Path(args.timing_cache)
    else:
        gpu = memory.device_name if memory is not None else "no-gpu"
        name = "%s-%s-%s.timing" % (trt.name, trt.version, gpu)
        path = Path(args.cache_dir) / re.sub(r"[^\w.-]+", "-", name)
    check_writable(path)
    return path


def write_layers(trt: Any, plan: bytes, memory: Any, target: Path) -> None:
    """`X.trt.layers.csv`, and a line for each kind of layer and precision."""
    from utils.evaluation.tables import markdown, write_csv
    from utils.trt.api import layer_table

    layers = layer_table(trt, plan, memory)
    rows = [[n.name, n.kind, " ".join(n.inputs), " ".join(n.outputs)] for n in layers]
    path = target.with_name(target.name + ".layers.csv")
    write_csv(path, ["layer", "kind", "inputs", "outputs"], rows)
    counts = collections.Counter(
        (n.kind, (n.inputs or ["-"])[0], (n.outputs or ["-"])[0]) for n in layers
    )
    table = [[*key, str(count)] for key, count in counts.most_common()]
    print(markdown(["kind", "input", "output", "layers"], table), end="")
    print("%d layers, %d of them reformat: %s" % (
        len(layers), sum(n.kind == "Reformat" for n in layers), path))  # fmt: skip


def write_engine(
    args: argparse.Namespace,
    source: Source,
    trt: Any,
    memory: Any,
    profile: Any,
    prepared: Prepared,
    plan: bytes,
    target: Path,
) -> None:
    """The engine and its side file. The old pair stays until the new engine is whole."""
    from utils.trt.sidecar import onnx_metadata, sha256, write_info

    info = onnx_metadata(source.model)
    info.update(
        precision=prepared.precision,
        runtime=trt.name,
        version=trt.version,
        gpu=memory.device_name if memory is not None else None,
        onnx=str(source.path),
        onnx_sha256=sha256(source.data),
        bytes=len(plan),
        **prepared.how,
    )
    if profile is not None:
        info["profile"] = [list(shape) for shape in profile]
    if source.hw is None and profile is not None:
        info["imgsz"] = list(profile.common[2:])
    with atomic_path(target) as tmp:
        tmp.write_bytes(plan)
        write_info(target, info)


if __name__ == "__main__":
    cli.run(main, get_args_parser())
