"""Accuracy and speed of a model on labelled images, with any backend.

    python test_multi_backend.py --weights weights/yolov5s6_pose-INT8.trt \\
        --data data/coco_kpts.yaml --img-size 640 --conf-thres 0.001 --iou-thres 0.6 --task val \\
        --device 0 --kpt-label
    python test_multi_backend.py --weights x.onnx --data data/custom_kpts.yaml
    python test_multi_backend.py --weights x.pt x.onnx x-NMS.onnx --compare
    python test_multi_backend.py --weights x.onnx --task speed
    python test_multi_backend.py --weights x-dynamic.onnx --task study

Results: runs/test/exp, exp2, ...: results.json, report.html, curves, worst images. The ground truth
is the COCO JSON if the data yaml names one, else the label files.
"""

import argparse

from utils import cli
from utils.dataset.data_yaml import TASKS
from utils.evaluation.config import STUDY_SIZES, EvaluateConfig
from utils.evaluation.run import evaluate_files


def get_args_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "test_multi_backend.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--weights", required=True, nargs="+", help=".pt, .onnx or TensorRT engine; several")
    add("--data", default="data/coco_kpts.yaml", help="data yaml [data/coco_kpts.yaml]")
    add("--task", default="val", choices=[*TASKS, "speed", "study"],
        help="which images; speed: latency on val; study: val at several sizes [val]")  # fmt: skip
    add("--img-size", "--img", "--imgsz", nargs="+", type=int, metavar="PX",
        help="one number or height width [the model's own, else 640]")  # fmt: skip
    add("--study-sizes", nargs="+", type=int, default=list(STUDY_SIZES), metavar="PX",
        help="sizes of --task study %s" % list(STUDY_SIZES))  # fmt: skip
    add("--batch-size", type=int, help="where the model takes any [32 on a GPU, 1 on a CPU]")
    add("--conf-thres", type=float,
        help="score threshold, 0..1 [0.001; speed 0.25; embedded NMS: its own]")  # fmt: skip
    add("--iou-thres", type=float,
        help="NMS IoU threshold, 0..1 [0.6; speed 0.45; embedded NMS: its own]")  # fmt: skip
    add("--max-det", type=int, default=300, help="detections an image at most [300]")
    add("--device", default="", help="cpu or a GPU index [a GPU if this runtime has one]")
    add("--half", action="store_true", help="FP16 inference of a .pt on a GPU")
    add("--kpt-label", action="store_true", help="accepted for old command lines; always on")
    add("--square", action="store_true", help="pad to the full size also where the model takes "
        "a rectangle that fits the image [on with --compare]")  # fmt: skip
    add("--single-cls", action="store_true", help="take all classes as one, NMS included")
    add("--agnostic-nms", action="store_true", help="NMS across classes")
    add("--augment", action="store_true", help="three views of each image, merged")
    add("--flip-test", action="store_true", help="two views of each image, one mirrored, averaged")
    add("--from-labels", action="store_true", help="ground truth from the label files also where "
        "the yaml names a COCO JSON")  # fmt: skip
    add("--compare", action="store_true", help="tables and chart of several --weights of one "
        "model: accuracy, size, latency, embedded NMS and outside")  # fmt: skip
    add("--bootstrap", type=int, default=EvaluateConfig.bootstrap, metavar="DRAWS",
        help="95 %% confidence intervals of the keypoint AP, by so many draws of the images; for "
        "several --weights also of their difference [0]")  # fmt: skip
    add("--verbose", action="store_true", help="a row for each class")
    add("--save-txt", action="store_true", help="labels/*.txt of the predictions")
    add("--save-conf", action="store_true", help="with --save-txt: score as the last column")
    add("--save-hybrid", action="store_true", help="labels/*.txt: the labels, and predictions of "
        "persons that have none, as labels to train on")  # fmt: skip
    add("--save-json", action="store_true", help="predictions.json, COCO results")
    add("--save-json-kpt", action="store_true", help="the same, and pycocotools' figures beside "
        "ours if the yaml names a COCO JSON")  # fmt: skip
    add("--results-file", metavar="JSON", help="a copy of results.json")
    add("--no-report", action="store_true", help="no charts and report.html")
    add("--project", default="runs/test", help="results go to project/name [runs/test]")
    add("--name", default="exp", help="results go to project/name [exp]")
    add("--exist-ok", action="store_true", help="reuse project/name instead of a new number")
    cli.add_overwrite(parser)
    return parser


def main(args: argparse.Namespace) -> None:
    evaluate_files(cli.config_of(EvaluateConfig, args))


if __name__ == "__main__":
    cli.run(main, get_args_parser())
