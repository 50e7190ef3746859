"""Train YOLO-Pose from scratch, or fine-tune a checkpoint, on one GPU or many.

    python train.py --weights '' --cfg models/hub/yolov5n6_kpts.yaml --data data/custom_kpts.yaml \\
        --hyp data/hyp.scratch.yaml --epochs 300 --batch-size 64 --img-size 640 --device 0
    python train.py --weights weights/yolov5s6_pose.pt --cfg models/hub/yolov5s6_kpts.yaml \\
        --data data/custom_kpts.yaml --hyp data/hyp.finetune_evolve.yaml --epochs 200 \\
        --batch-size 64 --img-size 640 --device 0,1 --workers 8 --freeze 12 --project runs/finetune
    torchrun --nproc_per_node 2 train.py ...
    python train.py --resume runs/train/exp/weights/last.pt

`--project/--name` holds weights/best.pt (by keypoint AP), weights/last.pt, results.csv,
results.png, images of the data, and opt.yaml and hyp.yaml, with which the run can be repeated.
"""

import argparse
import os

from utils import cli

# C++ frames of a lost connection, which our line tells of; before PyTorch is imported
os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
try:
    import torch  # noqa: F401  # without it, one line says so
except ImportError as error:
    cli.no_torch(error, __name__, "training")

from utils.training.config import WORKERS, TrainConfig
from utils.training.run import train


def get_args_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("train.py", description=__doc__.split("\n")[0])
    add, default = parser.add_argument, TrainConfig
    add("--weights", default=default.weights,
        help="checkpoint to start from, ours or a public one; '': scratch")  # fmt: skip
    add("--cfg", default=default.cfg, help="network, models/hub/*.yaml [that of --weights]")
    add("--data", default=default.data, help="data yaml")
    add("--hyp", default=default.hyp, help="hyper-parameters")
    add("--epochs", type=int, default=default.epochs,
        help="passes over the training images [%d]" % default.epochs)  # fmt: skip
    add("--batch-size", type=int, default=default.batch_size,
        help="images a step, of all GPUs together")  # fmt: skip
    add("--img-size", type=int, nargs="+", default=list(default.img_size), help="px, one number "
        "or height width; validation uses the same")  # fmt: skip
    add("--device", default=default.device,
        help="GPU index, several as 0,1, or cpu [GPU 0 if there is one]")  # fmt: skip
    add("--workers", type=int, default=default.workers,
        help="processes that load, for each GPU [%d, at most one a core]" % WORKERS)  # fmt: skip
    add("--freeze", type=int, default=default.freeze, metavar="N",
        help="the first N layers stay as they are")  # fmt: skip
    add("--resume", nargs="?", const=True, default=default.resume, metavar="LAST.PT",
        help="go on with a run; without a file the latest one of --project")  # fmt: skip
    add("--rect", action="store_true", help="batches of one shape, no mosaic")
    add("--multi-scale", action="store_true", help="vary --img-size by half up and down")
    add("--cache-images", action="store_true", help="keep decoded images in memory")
    add("--image-weights", action="store_true",
        help="draw images of badly found classes more often")  # fmt: skip
    add("--single-cls", action="store_true", help="all classes are one")
    add("--label-smoothing", type=float, default=default.label_smoothing,
        help="of the class targets [0]")  # fmt: skip
    add("--adam", action="store_true", help="AdamW rather than SGD")
    add("--linear-lr", action="store_true", help="a straight line rather than a cosine")
    add("--sync-bn", action="store_true", help="batch statistics over all GPUs")
    add("--no-amp", action="store_true", help="FP32 only")
    add("--compile", action="store_true", help="torch.compile: slow start, faster steps")
    add("--no-graphs", action="store_true", help="no CUDA graphs of the network")
    add("--noautoanchor", action="store_true", help="keep the anchors, whatever the boxes")
    add("--notest", action="store_true", help="validate after the last epoch only")
    add("--val-period", type=int, default=default.val_period, metavar="N",
        help="validate every N epochs [1]")  # fmt: skip
    add("--nosave", action="store_true", help="write checkpoints after the last epoch only")
    add("--evolve", action="store_true", help="not available, see docs/training.md")
    add("--seed", type=int, default=default.seed,
        help="of start values, order and augmentation [%d]" % default.seed)  # fmt: skip
    add("--kpt-label", action="store_true", help="always on: this is about keypoints")
    add("--project", default=default.project,
        help="results go to project/name [%s]" % default.project)  # fmt: skip
    add("--name", default=default.name, help="results go to project/name [%s]" % default.name)
    add("--exist-ok", action="store_true", help="write into --project/--name, whatever is there")
    cli.add_overwrite(parser)
    return parser


def main(args: argparse.Namespace) -> None:
    train(cli.config_of(TrainConfig, args))


if __name__ == "__main__":
    cli.run(main, get_args_parser())
