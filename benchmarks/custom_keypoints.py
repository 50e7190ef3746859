"""Does training on keypoints of any kind work, and does a wrong flip_idx show?

    python benchmarks/custom_keypoints.py                 # both sets, 30 epochs at 128 px, CPU
    python benchmarks/custom_keypoints.py --set corners --epochs 10 --images 64
    python benchmarks/custom_keypoints.py --set hands --seeds 10 --jobs 20 --results-file hands.json

Two drawn sets: cards with 4 corners, and figures of 21 points, a wrist with two hands. Left and
right look alike, as those of people do, so only their place tells them apart. Each set is trained
with flips and its flip_idx, without flips, and with flips and a flip_idx that leaves left and right
in place. Prints keypoint AP on images that were not trained on. Not a measure of speed.

A seed draws images and begins a network of its own; the three trainings of a seed share both, so
they are compared seed by seed.
"""

import argparse
import concurrent.futures
import contextlib
import csv
import io
import json
import multiprocessing
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Dict, Iterator, List, NamedTuple, Sequence, Tuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import cv2
import numpy as np
import yaml

ROOT = Path(__file__).resolve().parents[1]
SIDE = 128  # px of an image
GREY = 114
BATCH = 8


class Drawn(NamedTuple):
    """A kind of object: its points in its own frame, how it is declared, how it is drawn."""

    shape: np.ndarray  # (K, 2) x y, about -1..1
    names: List[str]
    strokes: List[Tuple[int, int, Tuple[int, int, int], int]]  # from, to, BGR, width


def corners() -> Drawn:
    """A card, its top edge black, the bottom one white, both sides red."""
    shape = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]], np.float64)
    names = ["left_top", "right_top", "right_bottom", "left_bottom"]
    strokes = [(0, 1, (0, 0, 0), 4), (2, 3, (250, 250, 250), 4), (3, 0, (0, 0, 230), 6),
               (1, 2, (0, 0, 230), 6)]  # fmt: skip
    return Drawn(shape, names, strokes)


def hands() -> Drawn:
    """A wrist in the middle and ten points of five fingers to each side."""
    left, right = [], []
    names_left, names_right = [], []
    strokes: List[Tuple[int, int, Tuple[int, int, int], int]] = []
    for finger in range(5):
        angle = np.radians(150 - 30 * finger)
        for joint, reach in enumerate((0.5, 1.0)):
            x, y = 0.35 + reach * 0.65 * abs(np.sin(angle)), -reach * np.cos(angle)
            left.append((-x, y))
            right.append((x, y))
            names_left.append("left_%d_%d" % (finger, joint))
            names_right.append("right_%d_%d" % (finger, joint))
    for side in (1, 11):
        for finger in range(5):
            first = side + 2 * finger
            color = (40, 40 + 50 * finger, 220 - 40 * finger)
            strokes += [(0, first, color, 2), (first, first + 1, color, 3)]
    return Drawn(
        np.array([(0.0, 0.0), *left, *right]), ["wrist", *names_left, *names_right], strokes
    )


SETS = {"corners": corners, "hands": hands}


def draw(drawn: Drawn, rng: np.random.Generator) -> Tuple[np.ndarray, np.ndarray]:
    """(image, points (K, 2) px) of one object, somewhere and turned a little."""
    image = np.full((SIDE, SIDE, 3), GREY, np.uint8)
    image = cv2.add(image, rng.integers(0, 30, image.shape).astype(np.uint8))
    angle, size = rng.uniform(-0.35, 0.35), rng.uniform(22, 36)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    reach = size * np.abs(drawn.shape).max() * 1.35
    center = rng.uniform(reach, SIDE - reach, 2)
    points = drawn.shape @ turn.T * size + center
    for a, b, color, width in drawn.strokes:
        ends = [tuple(int(v) for v in points[k].round()) for k in (a, b)]
        cv2.line(image, ends[0], ends[1], color, width, cv2.LINE_AA)
    return image, points


def make_set(folder: Path, drawn: Drawn, train: int, *, val: int, seed: int = 0) -> None:
    """Images and labels of both lists below a folder."""
    rng = np.random.default_rng(seed)
    for task, count in (("train", train), ("val", val)):
        for name in ("images", "labels"):
            (folder / name / task).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            image, points = draw(drawn, rng)
            low, high = points.min(0) - 4, points.max(0) + 4
            box = [*((low + high) / 2 / SIDE), *((high - low) / SIDE)]
            row = [0, *box, *(v for x, y in points / SIDE for v in (x, y, 2))]
            stem = "%04d" % i
            (folder / "images" / task / (stem + ".png")).write_bytes(
                cv2.imencode(".png", image)[1].tobytes()
            )
            text = " ".join("%.6f" % v if k else "0" for k, v in enumerate(row))
            (folder / "labels" / task / (stem + ".txt")).write_text(text + "\n")


def write_yaml(folder: Path, drawn: Drawn, name: str, **keys: object) -> Path:
    """A data yaml of the set; keys: changes, None leaves a key out."""
    content: Dict[str, object] = {
        "path": str(folder), "train": "images/train", "val": "images/val", "names": ["thing"],
        "kpt_shape": [len(drawn.names), 3], "kpt_names": drawn.names, **keys,
    }  # fmt: skip
    path = folder / (name + ".yaml")
    path.write_text(yaml.safe_dump({k: v for k, v in content.items() if v is not None}))
    return path


def write_hyp(path: Path, **changes: float) -> Path:
    """Hyper-parameters for some hundred steps: no mosaic, few distortions."""
    content = yaml.safe_load((ROOT / "data" / "hyp.scratch.yaml").read_text())
    few = {"lr0": 0.003, "lrf": 0.05, "warmup_epochs": 1.0, "mosaic": 0.0, "translate": 0.05,
           "scale": 0.1, "hsv_h": 0.0, "hsv_s": 0.1, "hsv_v": 0.1, "kpt": 0.5,
           "weight_decay": 0.0005}  # fmt: skip
    path.write_text(yaml.safe_dump({**content, **few, **changes}))
    return path


def tiny_cfg(path: Path) -> Path:
    """n6 at a quarter of its width, one convolution as its keypoint head."""
    cfg = yaml.safe_load((ROOT / "models" / "hub" / "yolov5n6_kpts.yaml").read_text())
    cfg.update(width_multiple=0.125, depth_multiple=0.1, dw_conv_kpt=False)
    path.write_text(yaml.safe_dump(cfg))
    return path


def train(
    folder: Path,
    data: Path,
    hyp: Path,
    *,
    epochs: int,
    size: int = SIDE,
    seed: int = 0,
    device: str = "cpu",
) -> Dict[str, float]:
    """The last row of results.csv of a run.

    train.py collects gradients of 64 images for a step. Of so few images that would be a handful of
    steps, so here each batch is one.
    """
    from utils.training.config import TrainConfig
    from utils.training.distributed import Ranks, own_device
    from utils.training.peers import Peers
    from utils.training.run import prepare, run_epoch

    config = TrainConfig(
        cfg=str(folder / "tiny.yaml"), data=str(data), hyp=str(hyp), epochs=epochs,
        batch_size=BATCH, img_size=(size,), device=device, workers=0, notest=True, nosave=True,
        adam=True, project=str(folder / "runs"), name="%s-%s" % (data.stem, hyp.stem), seed=seed,
    )  # fmt: skip
    with contextlib.redirect_stdout(io.StringIO()):
        run = prepare(config, Peers(Ranks()), own_device(device, Ranks()))
        run.trainer.accumulate = 1
        for epoch in range(epochs):
            run_epoch(config, run, epoch)
        run.progress.end(run.trainer)
    with (folder / "runs" / config.name / "results.csv").open() as file:
        row = list(csv.DictReader(file))[-1]
    return {key: float(value) for key, value in row.items() if value}


class Job(NamedTuple):
    """One training."""

    kind: str  # of SETS
    seed: int
    variant: str  # of VARIANTS
    epochs: int
    images: int
    val_images: int
    device: str


VARIANTS = {  # -> (probability of a flip, whether flip_idx is right)
    "flips": (0.5, True),
    "no flips": (0.0, True),
    "wrong flip_idx": (0.5, False),
}
FIGURES = ("kpt_ap", "kpt_ap50", "box_ap50", "kpt", "box")  # AP on new images, losses of training


def do(job: Job) -> Dict[str, Any]:
    """Train in a folder of its own, on one core."""
    import torch

    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    drawn, begin = SETS[job.kind](), time.monotonic()
    fliplr, right = VARIANTS[job.variant]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_set(folder, drawn, job.images, val=job.val_images, seed=job.seed)
        tiny_cfg(folder / "tiny.yaml")
        wrong = list(range(len(drawn.names)))
        data = write_yaml(folder, drawn, "data", flip_idx=None if right else wrong)
        hyp = write_hyp(folder / "hyp.yaml", fliplr=fliplr)
        row = train(folder, data, hyp, epochs=job.epochs, seed=job.seed, device=job.device)
    found = {key: row[key] for key in FIGURES}
    return {**job._asdict(), **found, "seconds": round(time.monotonic() - begin, 1)}


def do_all(jobs: Sequence[Job], processes: int) -> Iterator[Dict[str, Any]]:
    """The figures of each job, as they are done."""
    if processes == 1:
        yield from map(do, jobs)
        return
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(processes, context) as pool:
        for future in concurrent.futures.as_completed([pool.submit(do, job) for job in jobs]):
            yield future.result()


def summary(rows: Sequence[Dict[str, Any]]) -> List[str]:
    """A line for each set and variant, and how flips compare with none, seed by seed."""
    lines = []
    for kind in dict.fromkeys(row["kind"] for row in rows):
        ap = {(r["variant"], r["seed"]): r["kpt_ap"] for r in rows if r["kind"] == kind}
        for variant in VARIANTS:
            of = [v for (name, _), v in ap.items() if name == variant]
            if of:
                text = "%-8s %-15s keypoint AP %.3f, %.3f to %.3f of %d seeds"
                lines.append(text % (kind, variant, np.mean(of), min(of), max(of), len(of)))
        seeds = sorted({s for _, s in ap if ("flips", s) in ap and ("no flips", s) in ap})
        gain = np.array([ap["flips", s] - ap["no flips", s] for s in seeds])
        if len(gain) > 1:
            text = "%-8s flips - no flips: %+.4f, standard error %.4f, higher in %d of %d seeds"
            error = gain.std(ddof=1) / len(gain) ** 0.5
            lines.append(text % (kind, gain.mean(), error, (gain > 0).sum(), len(gain)))
    return lines


def get_args_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--set", choices=[*SETS, "all"], default="all")
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--images", type=int, default=192, help="training images [192]")
    parser.add_argument("--val-images", type=int, default=192, help="images for AP [192]")
    parser.add_argument("--seeds", type=int, default=1, help="how many, from 0 [1]")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--jobs", type=int, default=1, help="trainings at a time [1]")
    parser.add_argument("--device", default="cpu", help="cpu or a GPU index [cpu]")
    parser.add_argument("--results-file", type=Path, help="JSON, written after each training")
    return parser


def main() -> None:
    args = get_args_parser().parse_args()
    jobs = [
        Job(kind, seed, variant, args.epochs, args.images, args.val_images, args.device)
        for kind in (SETS if args.set == "all" else [args.set])
        for seed in range(args.seeds)
        for variant in args.variants
    ]
    rows: List[Dict[str, Any]] = []
    for row in do_all(jobs, args.jobs):
        rows.append(row)
        text = "%(kind)-8s seed %(seed)d %(variant)-15s keypoint AP %(kpt_ap).3f"
        print((text + " AP50 %(kpt_ap50).3f  box AP50 %(box_ap50).3f  %(seconds).0f s") % row)
        sys.stdout.flush()
        if args.results_file:
            args.results_file.write_text(json.dumps(rows, indent=1) + "\n")
    print("\n".join(summary(rows)))


if __name__ == "__main__":
    main()
