"""What does fine-tuning on another number of classes keep of the weights?

    python benchmarks/other_classes.py --train data/coco_kpts/train2017.txt data/lspet.txt \\
        --val data/coco_kpts/val2017.txt data/lspet.txt

Each list holds the images of one class: person, athlete. Weights of one class learn both, for a few
epochs, three times: the head taken over value by value, as train.py does it; with fresh last
convolutions; and by tensors of the same shape, whose channels mean something else by then. The
first images of --train are learnt, the last ones of --val are tested, so a list may be both.
"""

import argparse
import contextlib
import csv
import io
import json
import shutil
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any, Callable, Dict, List, Sequence
from unittest import mock

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import yaml

from utils.errors import InputWarning

ROOT = Path(__file__).resolve().parents[1]
NAMES = ["person", "athlete"]
WAYS: Dict[str, Dict[str, Callable]] = {  # -> what of utils.training.network is another function
    "value by value": {},
    "fresh": {"transfer_head": lambda *_: None},
    "by tensor": {"same_meaning": lambda *_: True},
}
FIGURES = ("box_ap50", "box_ap", "kpt_ap50", "kpt_ap", "obj", "loss")


def copy_images(paths: Sequence[Path], folder: Path, task: str, *, class_index: int) -> None:
    """Copy images and their labels, all of one class, below a folder."""
    from utils.dataset.labels import label_path

    for name in ("images", "labels"):
        (folder / name / task).mkdir(parents=True, exist_ok=True)
    for path in paths:
        stem = "%d-%s" % (class_index, path.stem)
        shutil.copyfile(str(path), str(folder / "images" / task / (stem + path.suffix)))
        lines = label_path(path).read_text().splitlines()
        rows = [" ".join([str(class_index), *line.split()[1:]]) for line in lines if line.split()]
        (folder / "labels" / task / (stem + ".txt")).write_text("".join(r + "\n" for r in rows))


def make_set(folder: Path, args: argparse.Namespace) -> Path:
    """The data yaml of both classes."""
    from utils.dataset.labels import list_images

    for task, lists, count in (
        ("train", args.train, args.images),
        ("val", args.val, args.val_images),
    ):
        for i, path in enumerate(lists):
            images = [Path(p) for p in list_images(path)]
            share = count // len(lists)
            chosen = images[:share] if task == "train" else images[-share:]
            copy_images(chosen, folder, task, class_index=i)
    content = {"path": str(folder), "train": "images/train", "val": "images/val", "names": NAMES}
    path = folder / "data.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def train(
    folder: Path, data: Path, way: str, *, seed: int, args: argparse.Namespace
) -> Dict[str, Any]:
    """Figures after the last epoch."""
    from utils.training import network
    from utils.training.config import TrainConfig
    from utils.training.run import train as train_all

    config = TrainConfig(
        weights=str(args.weights), data=str(data), hyp=str(args.hyp), epochs=args.epochs,
        batch_size=args.batch_size, img_size=(args.img_size,), device=args.device, notest=True,
        nosave=True, project=str(folder / "runs"), name="%s-%d" % (way.replace(" ", "-"), seed),
        seed=seed, workers=args.workers,
    )  # fmt: skip
    said = io.StringIO()
    with contextlib.ExitStack() as stack:
        for name, function in WAYS[way].items():
            stack.enter_context(mock.patch.object(network, name, function))
        stack.enter_context(contextlib.redirect_stdout(said))
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore", InputWarning)
        train_all(config)
    with (folder / "runs" / config.name / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    first = {"first_obj": float(rows[0]["obj"])}
    return {"way": way, "seed": seed, **first, **{k: float(rows[-1][k]) for k in FIGURES}}


def get_args_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--train", nargs=2, required=True, metavar="LIST", help="one of each class")
    parser.add_argument("--val", nargs=2, required=True, metavar="LIST", help="one of each class")
    parser.add_argument("--weights", default=ROOT / "weights" / "yolov5n6_pose.pt", type=Path)
    parser.add_argument("--hyp", default=ROOT / "data" / "hyp.finetune_custom.yaml", type=Path)
    parser.add_argument("--images", type=int, default=64, help="training images [64]")
    parser.add_argument("--val-images", type=int, default=128, help="images for AP [128]")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--img-size", type=int, default=640)
    parser.add_argument("--seeds", type=int, default=1, help="how many, from 0 [1]")
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--device", default="cpu", help="cpu or a GPU index [cpu]")
    parser.add_argument("--results-file", type=Path, help="JSON, written after each training")
    return parser


def main() -> None:
    args = get_args_parser().parse_args()
    rows: List[Dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        data = make_set(Path(name), args)
        for seed in range(args.seeds):
            for way in WAYS:
                rows.append(train(Path(name), data, way, seed=seed, args=args))
                text = (
                    "seed %(seed)d %(way)-15s box AP50 %(box_ap50).3f  keypoint AP50 %(kpt_ap50).3f"
                )
                print(
                    (text + "  objectness loss of epoch 1: %(first_obj).3f") % rows[-1], flush=True
                )
                if args.results_file:
                    args.results_file.write_text(json.dumps(rows, indent=1) + "\n")
    for way in WAYS:
        of = np.array([[row[key] for key in ("box_ap50", "kpt_ap50")] for row in rows
                       if row["way"] == way])  # fmt: skip
        figures = (way, *of.mean(0), len(of))
        print("%-15s box AP50 %.3f  keypoint AP50 %.3f, mean of %d seeds" % figures)


if __name__ == "__main__":
    main()
