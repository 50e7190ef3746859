"""Import an ONNX of another exporter: YOLOv8, 11, 12, 26 pose and YOLOv7-w6-pose, raw predictions.

    python models/import_onnx.py --onnx yolo11n-pose.onnx
    python models/import_onnx.py --onnx yolo11n-pose.onnx --end2end --nms static --conf-thres 0.25
    python models/export_INT8.py --onnx yolo11n-pose-imported.onnx \\
        --calib_path data/custom_kpts/images --calib_num 256
    python models/export_TRT.py --onnx yolo11n-pose-imported.onnx --fp16

X.onnx becomes X-imported.onnx, with --end2end X-imported-NMS.onnx, beside it: the same network, its
predictions moved into our own raw layout (B, N, 5 + nc + 3K) with objectness 1, and our metadata.
From there everything goes on as with a file of models/export_onnx.py. Static, dynamic and FP16
files, any number of classes and keypoints, keypoints with and without confidence, opset 13 to 20.

The file written and the original run on a real image; a file that differs is deleted. detect and
test also read the original in place, with NMS inside, too. See docs/other-models.md. The licence of
the weights stays what it is.
"""

import argparse
import sys
from pathlib import Path

if not __package__:
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from utils import cli
from utils.export import flags
from utils.export.onnx_import import ImportConfig, import_onnx


def get_args_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "import_onnx.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--onnx", required=True, help="ONNX of another exporter, without NMS inside")
    add("--half", action="store_true", help="FP16 weights, input and convolutions; needs no GPU")
    add("--simplify", action="store_true", help="fold constants and merge nodes (onnxslim)")
    add("--check-image", default=ImportConfig.check_image, metavar="FILE",
        help="image of the comparison [the first of data/images]")  # fmt: skip
    flags.add_nms(parser)
    cli.add_overwrite(parser)
    return parser


def main(args: argparse.Namespace) -> None:
    import_onnx(cli.config_of(ImportConfig, args))


if __name__ == "__main__":
    cli.run(main, get_args_parser())
