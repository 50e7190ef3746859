"""Build a TensorRT engine from an ONNX, with TensorRT 8.5 to 11 or TensorRT-RTX.

    python models/export_TRT.py --onnx weights/yolov5s6_pose.onnx --batch-size 1 --fp16
    python models/export_TRT.py --onnx weights/yolov5s6_pose.onnx --device 0 --int8 \\
        --calib_path data/custom_kpts/images --calib_num 256 --cache_dir caches
    python models/export_TRT.py --onnx weights/yolov5s6_pose-dynamic.onnx --fp16 --dynamic \\
        --max-batch 8
    python models/export_TRT.py --onnx weights/yolov5s6_pose-INT8.onnx

X.trt (FP32), X-FP16.trt or X-INT8.trt beside the ONNX: named after what was built. X.trt.json
beside it carries names, keypoints, size, precision, version and GPU. An engine runs on the GPU and
TensorRT that built it, so build on the machine that runs it.

With caches/X.cache there, --int8 needs no images. See docs/tensorrt.md for what each flag does in
which version, and models/export_INT8.py for calibration without TensorRT.
"""

import argparse
import sys
from pathlib import Path

if not __package__:
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from utils import cli
from utils.export import flags
from utils.export.calibration import CALIBRATORS, CalibrationConfig
from utils.export.engine import build_engine
from utils.export.engine_config import QUANT, ROUND, EngineConfig


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
    flags.add_calibration(
        parser,
        "MinMax or Entropy [MinMax] by TensorRT's own calibrator; with --calib_by onnxruntime also "
        "Percentile, Mse and Foreground [Foreground]",
    )
    add("--quant", choices=QUANT, default=None, help="how --int8 is done: implicit, ranges beside "
        "the network (8.5 to 10.x); explicit, Q/DQ pairs in it (all versions) [what this TensorRT "
        "can, implicit first]")  # fmt: skip
    add("--calib_by", "--calib-by", choices=CALIBRATORS, default=None,
        help="who collects ranges [tensorrt if --quant implicit, else onnxruntime]")  # fmt: skip
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
    cli.add_overwrite(parser)
    return parser


def main(args: argparse.Namespace) -> None:
    calibration = cli.config_of(CalibrationConfig, args)
    build_engine(cli.config_of(EngineConfig, args, calibration=calibration))


if __name__ == "__main__":
    cli.run(main, get_args_parser())
