"""Calibrate an ONNX for INT8 on any machine: no TensorRT, no GPU.

    python models/export_INT8.py --onnx weights/yolov5s6_pose.onnx \\
        --calib_path data/custom_kpts/images --calib_num 256
    python models/export_INT8.py --onnx weights/yolov5s6_pose.onnx --report
    python models/export_INT8.py --onnx weights/yolov5s6_pose.onnx --distill 300   # needs PyTorch
    python detect_multi_backend.py --weights weights/yolov5s6_pose-INT8.onnx --source data/images

Writes caches/X.cache, the ranges in TensorRT's format, and X-INT8.onnx beside X.onnx, with explicit
Q/DQ pairs. Either goes to the machine that builds the engine: X.onnx and X.cache for TensorRT 8.5
to 10.x, X-INT8.onnx for every version. X-INT8.onnx runs in ONNX Runtime, so test_multi_backend.py
shows what INT8 costs before an engine is built. With a cache of this model there, no images are
needed, but for --distill, which trains X-INT8.onnx to predict what X.onnx predicts on them.
"""

import argparse
import sys
from pathlib import Path

if not __package__:
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from utils import cli
from utils.export import flags
from utils.export.calibration import DEFAULT_METHOD, CalibrationConfig
from utils.export.int8 import QuantizeConfig, quantize


def get_args_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "export_INT8.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--onnx", required=True, help="raw or end2end ONNX, opset 13 or later")
    flags.add_calibration(
        parser,
        "how ranges are chosen: MinMax, Entropy, Percentile (99.99), Mse, the least error, or "
        "Foreground, the least error over the signal inside the boxes that the model finds [%s]"
        % DEFAULT_METHOD,
    )
    parser.add_argument("--no-bias-correction", dest="refit", action="store_false",
        help="leave weights and biases as they are")  # fmt: skip
    parser.add_argument("--distill", type=int, default=QuantizeConfig.distill, metavar="STEPS",
        help="train the INT8 network for so many steps to predict what the FP32 one does, on the "
        "calibration images [0]")  # fmt: skip
    parser.add_argument("--device", default=QuantizeConfig.device, help="where --distill trains: a "
        "GPU index such as 0, or cpu [GPU 0 if there is one]")  # fmt: skip
    parser.add_argument("--report", action="store_true",
        help="print how much each tensor loses, alone in INT8")  # fmt: skip
    cli.add_overwrite(parser)
    return parser


def main(args: argparse.Namespace) -> None:
    calibration = cli.config_of(CalibrationConfig, args)
    quantize(cli.config_of(QuantizeConfig, args, calibration=calibration))


if __name__ == "__main__":
    cli.run(main, get_args_parser())
