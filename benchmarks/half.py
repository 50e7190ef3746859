"""How far FP16 moves keypoints: the rows of a --half ONNX against those of the FP32 one.

    python models/export_onnx.py --weights weights/yolov5n6_pose.pt --img-size 1280   # keep a copy
    python models/export_onnx.py --weights weights/yolov5n6_pose.pt --img-size 1280 --half
    python benchmarks/half.py --onnx fp32.onnx --half half.onnx --data data/coco_kpts.yaml

Both run in ONNX Runtime on the val pictures, letterboxed. Prints a Markdown table: of the keypoints
of all rows above a score, before NMS, the largest, 99th percentile and mean distance, px of the
input.
"""

import argparse
import sys
from pathlib import Path

if not __package__:
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from benchmarks.machine import describe
from utils import cli
from utils.backends import OnnxBackend
from utils.calibration import batches
from utils.data_yaml import read_data
from utils.errors import InputError
from utils.eval_set import read_eval_set

SCORES = (0.01, 0.1, 0.25, 0.5)


def get_args_parser():
    parser = argparse.ArgumentParser(
        "half.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--onnx", required=True, help="static, FP32")
    add("--half", required=True, help="static, FP16, same size")
    add("--data", default="data/coco_kpts.yaml")
    add("--images", type=int, default=98, help="the first of the val task [98]")
    return parser


def main(args):
    both = [OnnxBackend(Path(path), gpu=-1) for path in (args.onnx, args.half)]
    hw, nc = both[0].imgsz, both[0].nc
    if hw is None or both[1].imgsz != hw:
        raise InputError("--half: expected two static models of one size")
    paths = read_eval_set(read_data(args.data), "val").paths[: args.images]
    moved = {score: [] for score in SCORES}
    for batch in batches(paths, hw, 1, True, title="compare"):
        wanted, found = (np.asarray(b(batch))[0] for b in both)
        sure = wanted[:, 4] * wanted[:, 5 : 5 + nc].max(1)
        points = [r[:, 5 + nc :].reshape(len(r), -1, 3)[..., :2] for r in (wanted, found)]
        distance = np.linalg.norm(points[1] - points[0], axis=-1)
        for score in SCORES:
            moved[score].append(distance[sure >= score])
    print(describe())
    print("%d images, %dx%d px, %s against FP32" % (len(paths), *hw, args.half))
    print("| score | rows | largest px | 99 % within px | mean px |\n|---|---|---|---|---|")
    for score in SCORES:
        all_of = np.concatenate(moved[score])
        if len(all_of):
            figures = all_of.max(), np.percentile(all_of, 99), all_of.mean()
            print("| >= %g | %d | %.3f | %.3f | %.4f |" % (score, len(all_of), *figures))


if __name__ == "__main__":
    cli.run(main, get_args_parser())
