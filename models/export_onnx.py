"""Export a YOLO-Pose checkpoint to ONNX, and prove that the file computes the same.

    python models/export_onnx.py --weights weights/yolov5s6_pose.pt --img-size 640 --simplify
    python models/export_onnx.py --weights weights/yolov5s6_pose.pt --img-size 640 --batch-size 1 \\
        --device 0 --simplify --half
    python models/export_onnx.py --weights weights/yolov5s6_pose.pt --dynamic
    python models/export_onnx.py --weights weights/yolov5s6_pose.pt --img-size 640 --simplify \\
        --end2end --topk-all 100 --iou-thres 0.45 --conf-thres 0.5

X.pt becomes X.onnx (with --dynamic X-dynamic.onnx) beside it. Input `input` (B, 3, H, W) RGB 0..1;
output `output` (B, N, 5 + nc + 3K) float32: cx cy w h objectness, classes, x y conf a keypoint,
in network pixels, confidences after sigmoid. With --half weights, input and convolutions are FP16
and the decode stays FP32, because FP16 coordinates above 1024 px have steps of 1 px; weights are
rounded so that their errors cancel (utils/quantization/adaptive_rounding.py).

With --end2end NMS is in the model, X-NMS.onnx (X-dynamic-NMS.onnx): outputs num_dets, det_indices,
det_boxes, det_pose, det_scores, see utils/graph/nms.py and docs/nms.md.

After the export ONNX Runtime and PyTorch run on one real image; a file that differs is deleted.
A file with embedded NMS must find what utils/pose/nms.py finds in the raw output.
"""

import argparse
import sys
from pathlib import Path

if not __package__:
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from utils import cli
from utils.export import flags
from utils.export.checkpoint import ExportConfig, export_checkpoint
from utils.export.onnx_export import DEFAULT_OPSET, OPSETS, ROUND


def get_args_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "export_onnx.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--weights", required=True, help="checkpoint (.pt)")
    add("--img-size", "--img", "--imgsz", nargs="+", type=int, metavar="PX",
        help="one number or height width, rounded up to a stride multiple [that of the training, "
        "else 640]")  # fmt: skip
    add("--batch-size", type=int, default=1, help="images in a batch of a static model [1]")
    add("--device", default="cpu", help="cpu or a GPU index, where PyTorch traces [cpu]")
    add("--dynamic", action="store_true", help="dynamic batch, height and width")
    add("--half", action="store_true", help="FP16 weights and convolutions; needs no GPU")
    add("--round", choices=ROUND, default=None, help="with --half: cancel, weights are rounded so "
        "that their errors cancel, which takes a minute; nearest [cancel]")  # fmt: skip
    add("--uint8", action="store_true", help="X-uint8.onnx with the input `pixels`, (B, H, W, 3) "
        "uint8 BGR as OpenCV reads images: a quarter of the bytes to copy")  # fmt: skip
    add("--simplify", action="store_true", help="fold constants and merge nodes (onnxslim)")
    add("--opset", type=int, default=DEFAULT_OPSET,
        help="ONNX opset, %d to %d [%d]" % (OPSETS + (DEFAULT_OPSET,)))  # fmt: skip
    add("--check-image", default="", metavar="FILE",
        help="image of the comparison [the first of data/images]")  # fmt: skip
    flags.add_nms(parser)
    cli.add_overwrite(parser)
    return parser


def main(args: argparse.Namespace) -> None:
    export_checkpoint(cli.config_of(ExportConfig, args))


if __name__ == "__main__":
    cli.run(main, get_args_parser())
