"""Train YOLO-Pose from scratch, or fine-tune a checkpoint, on one GPU or many.

    python train.py --weights '' --cfg models/hub/yolov5n6_kpts.yaml --data data/custom_kpts.yaml \\
        --hyp data/hyp.scratch.yaml --epochs 300 --batch-size 64 --img-size 640 --device 0
    python train.py --weights weights/yolov5l6_pose.pt --cfg models/hub/yolov5l6_kpts.yaml \\
        --data data/custom_kpts.yaml --hyp data/hyp.finetune_evolve.yaml --epochs 200 \\
        --batch-size 64 --img-size 832 --device 0,1 --workers 8 --freeze 12 --project runs/finetune
    torchrun --nproc_per_node 2 train.py ...
    python train.py --resume runs/train/exp/weights/last.pt

`--project/--name` holds weights/best.pt (by keypoint AP), weights/last.pt, results.csv,
results.png, pictures of the data, and opt.yaml and hyp.yaml, with which the run can be repeated.
"""

import argparse
import time
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional

import numpy as np

from utils import cli

try:
    import torch
except ImportError as error:
    cli.no_torch(error, __name__, "training")

from models.checkpoint import (
    Checkpoint,
    TrainingState,
    load_checkpoint,
    load_training_state,
    save_checkpoint,
)
from models.yolo import Model, read_cfg
from utils.dataset.data_yaml import DataYaml, read_data
from utils.dataset.eval_set import EvalSet, read_eval_set
from utils.errors import InputError
from utils.evaluation import charts
from utils.files import atomic_path, increment_dir
from utils.pose.letterbox import HW, parse_size, stride_multiple
from utils.training import anchors, distributed, run_log
from utils.training.batches import Spec, TrainBatches
from utils.training.distributed import Ranks
from utils.training.hyper_parameters import Hyp, check_hyp, read_hyp
from utils.training.train_set import TrainSet, fault_lines, read_train_set
from utils.training.trainer import Options, Trainer, to_device

CHECK_CONF, CHECK_IOU = 0.001, 0.6  # thresholds of the validation, as test_multi_backend.py's
SAVE_SHARE = 0.03  # of the time at most goes into writing last.pt
DRAWN_BATCHES = 3
PLAIN_GREYS = (0, 64, 96, 114, 128, 192, 255)  # 114 is that of the letterbox
PLAIN_LIMIT = 0.25  # score of a person where there is nothing: detect would show it
WORKERS = 8


class Run(NamedTuple):
    """What all processes agree on before they begin."""

    args: argparse.Namespace
    hyp: Hyp
    data: DataYaml
    size: HW
    folder: Path
    resumed: Optional[Dict[str, Any]]  # plain state of the run that goes on


def get_args_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("train.py", description=__doc__.split("\n")[0])
    add = parser.add_argument
    add("--weights", default="", help="checkpoint to start from, ours or a public one; '': scratch")
    add("--cfg", default="", help="network, models/hub/*.yaml [that of --weights]")
    add("--data", default="data/coco_kpts.yaml", help="data yaml")
    add("--hyp", default="data/hyp.scratch.yaml", help="hyper-parameters")
    add("--epochs", type=int, default=300)
    add("--batch-size", type=int, default=16, help="pictures a step, of all GPUs together")
    add("--img-size", type=int, nargs="+", default=[640], help="px, one number (a second one, the "
        "size for validation in the family, has to be the same)")  # fmt: skip
    add("--device", default="", help="GPU index, several as 0,1, or cpu [GPU 0 if there is one]")
    add("--workers", type=int, help="processes that load, for each GPU [8]")
    add("--freeze", type=int, default=0, metavar="N", help="the first N layers stay as they are")
    add("--resume", nargs="?", const=True, default=False, metavar="LAST.PT",
        help="go on with a run; without a file the latest one of --project")  # fmt: skip
    add("--rect", action="store_true", help="batches of one shape, no mosaic")
    add("--multi-scale", action="store_true", help="vary --img-size by half up and down")
    add("--cache-images", action="store_true", help="keep decoded images in memory")
    add(
        "--image-weights", action="store_true", help="draw images of badly found classes more often"
    )
    add("--single-cls", action="store_true", help="all classes are one")
    add("--label-smoothing", type=float, default=0.0, help="of the class targets [0]")
    add("--adam", action="store_true", help="AdamW rather than SGD")
    add("--linear-lr", action="store_true", help="a straight line rather than a cosine")
    add("--sync-bn", action="store_true", help="batch statistics over all GPUs")
    add("--no-amp", action="store_true", help="FP32 only")
    add("--compile", action="store_true", help="torch.compile: slow start, faster steps")
    add("--no-graphs", action="store_true", help="no CUDA graphs of the network")
    add("--noautoanchor", action="store_true", help="keep the anchors, whatever the boxes")
    add("--notest", action="store_true", help="validate after the last epoch only")
    add("--val-period", type=int, default=1, metavar="N", help="validate every N epochs [1]")
    add("--nosave", action="store_true", help="write checkpoints after the last epoch only")
    add("--evolve", action="store_true", help="not available, see docs/training.md")
    add("--seed", type=int, default=0)
    add("--kpt-label", action="store_true", help="always on: this is about keypoints")
    add("--project", default="runs/train")
    add("--name", default="exp")
    add("--exist-ok", action="store_true", help="write into --project/--name, whatever is there")
    return parser


def main(args: argparse.Namespace) -> None:
    ranks = distributed.from_environment()
    check_flags(args)
    if args.resume:
        args = resumed_flags(args)
    elif args.workers is None:
        args.workers = WORKERS
    devices = parse_devices(args.device)
    if ranks.world == 1 and len(devices) > 1:
        check_batch(args, len(devices))
        read_data(args.data), read_hyp(args.hyp)  # say what is wrong once, not in each process
        distributed.launch(work, args, len(devices))
        return
    work(args)


def work(args: argparse.Namespace) -> None:
    """One process of the run."""
    ranks = distributed.from_environment()
    devices = parse_devices(args.device)
    device = devices[ranks.local % len(devices)]
    if device.type == "cuda":
        if ranks.local >= len(devices):
            raise InputError(
                "--device %s: %d processes on this host, but %d GPUs"
                % (args.device, ranks.local + 1, len(devices))
            )
        torch.cuda.set_device(device)
    check_batch(args, ranks.world)
    distributed.join_group(ranks, device.type == "cuda")
    try:
        train(args, ranks, device)
    finally:
        distributed.leave_group()


# --- flags ------------------------------------------------------------------------------------


def check_flags(args: argparse.Namespace) -> None:
    """What can be said before anything is read."""
    if args.evolve:
        raise InputError(
            "--evolve is not available; vary the keys of --hyp, for instance with Optuna, as "
            "docs/training.md shows"
        )
    limits = (("epochs", 1, 100000), ("batch_size", 1, 65536), ("workers", 0, 256),
              ("freeze", 0, 1000), ("val_period", 1, 100000), ("seed", 0, 2**31))  # fmt: skip
    for key, low, high in limits:
        value = getattr(args, key)
        if value is not None and not low <= value <= high:
            flag = "--" + key.replace("_", "-")
            raise InputError("%s %d: expected %d to %d" % (flag, value, low, high))
    if not 0 <= args.label_smoothing < 1:
        raise InputError("--label-smoothing %g: expected 0 to 1" % args.label_smoothing)
    if len(args.img_size) == 2 and args.img_size[0] != args.img_size[1]:
        raise InputError(
            "--img-size %d %d: training takes one number; test_multi_backend.py tests at another"
            % tuple(args.img_size)
        )
    parse_size(args.img_size)
    if not (args.weights or args.cfg or args.resume):
        raise InputError("--cfg: expected a network, such as models/hub/yolov5s6_kpts.yaml, or "
                         "--weights")  # fmt: skip


def parse_devices(text: str) -> List[torch.device]:
    """--device -> devices. Raises InputError if one is not there."""
    text = text.strip()
    if text == "cpu" or (not text and not torch.cuda.is_available()):
        return [torch.device("cpu")]
    words = [w.strip() for w in (text or "0").split(",")]
    if not all(w.isdigit() for w in words) or len(set(words)) != len(words):
        raise InputError("--device %s: expected cpu, a GPU index or several such as 0,1" % text)
    there = torch.cuda.device_count()
    if any(int(w) >= there for w in words):
        raise InputError(
            "--device %s: PyTorch %s sees %d CUDA GPUs; use --device cpu"
            % (text, torch.__version__, there)
        )
    return [torch.device("cuda", int(w)) for w in words]


def check_batch(args: argparse.Namespace, processes: int) -> None:
    if args.batch_size % processes:
        raise InputError(
            "--batch-size %d: cannot be divided by %d GPUs; try %d"
            % (args.batch_size, processes, max(args.batch_size // processes, 1) * processes)
        )


RESUME_NEW = ("device", "cache_images")  # what may differ from the run's own, if given


def resumed_flags(args: argparse.Namespace) -> argparse.Namespace:
    """The flags of the run that goes on; those about this machine may be new."""
    path = Path(args.resume) if isinstance(args.resume, str) else latest(args.project)
    _, state = load_training_state(path)
    kept = dict(state.plain["args"])
    for key in RESUME_NEW:
        kept[key] = getattr(args, key) or kept.get(key)
    if args.workers is not None:
        kept["workers"] = args.workers
    kept["resume"] = str(path)
    merged = vars(get_args_parser().parse_args([]))
    merged.update(kept)
    return argparse.Namespace(**merged)


def latest(project: str) -> Path:
    """The last.pt written last below a project folder."""
    found = sorted(Path(project).glob("*/weights/last.pt"), key=lambda p: p.stat().st_mtime)
    if not found:
        raise InputError("--resume: no */weights/last.pt in %s; name the file" % project)
    return found[-1]


# --- the run ----------------------------------------------------------------------------------


def train(args: argparse.Namespace, ranks: Ranks, device: torch.device) -> None:
    say = print if ranks.first else (lambda *_, **__: None)
    data = read_data(args.data)
    resumed = None
    if args.resume:
        checkpoint, state = load_training_state(args.resume)
        resumed = state
        hyp = check_hyp(state.plain["hyp"], args.resume)
        model = checkpoint.model
        say("%s: goes on after epoch %d of %d" % (args.resume, state.plain["epoch"], args.epochs))
    else:
        hyp = read_hyp(args.hyp)
        model, lines = build_model(args, data)
        say("\n".join(lines))
    check_freeze(args, model)
    asked = parse_size(args.img_size)
    size = stride_multiple(asked, model.max_stride)
    if size != asked:
        say("--img-size %d: rounded up to %d, a multiple of %d" % (asked[0], size[0],
                                                                  model.max_stride))  # fmt: skip
    train_set = read_train_set(data, args.single_cls, max(args.workers, 1))
    eval_set = read_eval_set(data, "val")
    say("\n".join(fault_lines(train_set)), end="")
    say("%s: %d training images, %d persons; %d validation images"
        % (args.data, train_set.count, train_set.persons, eval_set.count))  # fmt: skip
    if not (args.noautoanchor or args.resume):
        say(fit_anchors(model, train_set, size, hyp, replace=not args.weights))
    batches = make_batches(args, model, train_set, hyp, size, ranks, device)
    options = Options(
        args.epochs, device, ranks, args.adam, args.linear_lr, args.label_smoothing, args.sync_bn,
        args.freeze, not args.no_amp, args.compile, not args.no_graphs, data.sigmas,
    )  # fmt: skip
    trainer = Trainer(model, batches, hyp, options)
    folder = Path()
    if ranks.first:
        folder = run_folder(args)
    progress = Progress(args, hyp, folder, ranks)
    if resumed is not None:
        trainer.restore(checkpoint.model, resumed)
        progress.take_up(resumed)
    say("%d processes, batch %d, %d steps an epoch, %s on %s, results in %s"
        % (ranks.world, args.batch_size, batches.steps, trainer.precision, device_name(device),
           folder))  # fmt: skip
    if ranks.first and resumed is None:
        describe(args, hyp, folder, train_set, trainer)
    loop(args, hyp, trainer, eval_set, progress, say)


def loop(
    args: argparse.Namespace,
    hyp: Hyp,
    trainer: Trainer,
    eval_set: EvalSet,
    progress: "Progress",
    say: Any,
) -> None:
    """All epochs that are left."""
    ranks = trainer.options.ranks
    for epoch in range(progress.epoch, args.epochs):
        last = epoch + 1 == args.epochs
        stats = trainer.train_epoch(epoch)
        row: Dict[str, float] = {"epoch": epoch + 1, **stats.losses, "lr": stats.lr,
                                 "images_per_s": stats.images_per_s,
                                 "memory_gb": stats.memory_gb}  # fmt: skip
        due = last or (not args.notest and (epoch + 1) % args.val_period == 0)
        per_class: List[float] = []
        if due and ranks.first:
            accuracy = validate(trainer, eval_set, args)
            row.update(accuracy[0])
            per_class = accuracy[1]
        if args.image_weights and due:
            reweight(trainer.batches, distributed.share(per_class, ranks), eval_set.names)
        if ranks.first:
            progress.finish_epoch(trainer, row, last)
            say(line(row, args.epochs))
        distributed.wait(ranks)
    if ranks.first:
        progress.end(trainer)
        for path, reason in sorted(trainer.batches.broken.items()):
            say("warning: could not be decoded, trained without it: %s: %s" % (path, reason))
        say(
            "best keypoint AP %.4f in epoch %d: %s"
            % (progress.best, progress.best_epoch, progress.folder / "weights" / "best.pt")
        )
        if progress.best_plain > PLAIN_LIMIT:
            say(
                "warning: best.pt sees people in plain grey pictures (score %.2f); what helps: "
                '"Test what you trained" in docs/training.md' % progress.best_plain
            )


def device_name(device: torch.device) -> str:
    return "CPU" if device.type == "cpu" else torch.cuda.get_device_name(device)


def build_model(args: argparse.Namespace, data: DataYaml) -> Any:
    """(network with the weights that fit, lines that tell what was taken over)."""
    checkpoint: Optional[Checkpoint] = load_checkpoint(args.weights) if args.weights else None
    nc = 1 if args.single_cls else data.nc
    torch.manual_seed(args.seed)
    try:
        cfg = read_cfg(args.cfg) if args.cfg else checkpoint.model.cfg  # type: ignore
    except FileNotFoundError as e:
        raise InputError("--cfg %s: no such file" % args.cfg) from e
    except ValueError as e:
        raise InputError("--cfg %s" % e) from e
    model = Model(cfg, nc=nc, nkpt=data.nkpt)
    model.names = ["object"] if args.single_cls and data.nc > 1 else list(data.names)
    count = model.parameter_count() / 1e6
    lines = ["%s: %.1f M parameters" % (args.cfg or args.weights, count)]
    if checkpoint is not None:
        lines.append(transfer(model, checkpoint.model, args))
        if model.head.nc == 1:
            model.head.settle_class()
            lines.append("one class: its probability starts at 1")
    else:
        lines.append("no --weights: from scratch")
    return model, lines


def transfer(model: Model, source: Model, args: argparse.Namespace) -> str:
    """Copy the tensors of the same name and shape; says which are not.

    Anchors are the cfg's where there is one. Raises InputError if nothing fits.
    """
    mine, theirs = model.state_dict(), source.state_dict()
    anchors_of_cfg = ("anchors", "anchor_grid") if args.cfg else ()
    fitting = {
        k: v
        for k, v in theirs.items()
        if k in mine and mine[k].shape == v.shape and k.rsplit(".", 1)[-1] not in anchors_of_cfg
    }
    learnt = {k for k, _ in model.named_parameters()}
    taken = [k for k in fitting if k in learnt]
    if not taken:
        raise InputError(
            "--cfg %s: none of its tensors has the shape it has in --weights %s; is it the cfg of "
            "these weights?" % (args.cfg, args.weights)
        )
    model.load_state_dict(fitting, strict=False)
    left = [k for k in learnt if k not in fitting]
    text = "%s: %d of %d tensors taken over" % (args.weights, len(taken), len(learnt))
    if left:
        layers = sorted({".".join(k.split(".")[:2]) for k in left}, key=lambda k: (len(k), k))
        text += "; fresh are %d in %s" % (len(left), ", ".join(layers))
    return text


def check_freeze(args: argparse.Namespace, model: Model) -> None:
    if args.freeze >= len(model.model):
        raise InputError(
            "--freeze %d: the network has %d layers, and the last has to learn"
            % (args.freeze, len(model.model))
        )


def fit_anchors(model: Model, train_set: TrainSet, size: HW, hyp: Hyp, replace: bool = True) -> str:
    """Replace the anchors where they do not fit the boxes; says what was found.

    A head that has learnt with some anchors predicts nonsense with others: `replace` False.
    """
    head = model.head
    stride = head.stride.view(-1, 1, 1)
    px = (head.anchors.cpu() * stride).numpy().astype(np.float64)
    recall, found = anchors.check(train_set, px, max(size), hyp.anchor_t)
    text = "anchors: %.1f %% of the boxes have a similar one" % (100 * recall)
    if found is px:
        return text
    if not replace:
        return text + "; they are kept, for the head of --weights knows no others"
    with torch.no_grad():
        exact = torch.from_numpy(found).float()
        head.anchors.copy_(exact / stride)
        head.anchor_grid.copy_(exact.view_as(head.anchor_grid))
    model.cfg["anchors"] = [[round(v, 1) for v in level.ravel().tolist()] for level in found]
    share = anchors.best_recall(
        anchors.box_sizes(train_set, max(size)), found.reshape(-1, 2), hyp.anchor_t
    )
    return text + "; new ones: %.1f %% (--noautoanchor keeps the old)" % (100 * share)


def make_batches(
    args: argparse.Namespace,
    model: Model,
    train_set: TrainSet,
    hyp: Hyp,
    size: HW,
    ranks: Ranks,
    device: torch.device,
) -> TrainBatches:
    stride = model.head.stride.cpu()
    px = (model.head.anchors.cpu() * stride.view(-1, 1, 1)).numpy().astype(np.float64)
    spec = Spec(
        size,
        args.batch_size // ranks.world,
        px,
        [int(s) for s in stride],
        args.seed,
        ranks.rank,
        ranks.world,
        args.workers,
        args.cache_images,
        args.rect,
        args.multi_scale,
        device.type == "cuda",
    )
    plain_from = round(args.epochs * (1 - hyp.close_mosaic))
    return TrainBatches(train_set, hyp, spec, args.epochs, plain_from)


def validate(trainer: Trainer, eval_set: EvalSet, args: argparse.Namespace) -> Any:
    """(figures for results.csv, AP of each class) of the averaged weights."""
    import copy

    import torch

    from utils.evaluation.evaluate import evaluate
    from utils.runtime.predictor import Predictor
    from utils.runtime.torch_backend import TorchBackend

    device = trainer.options.device
    gpu = device.index if device.type == "cuda" else -1
    backend = TorchBackend.of_model(copy.deepcopy(trainer.ema.model), gpu, half=gpu >= 0)
    predictor = Predictor(backend, trainer.batches.spec.size, CHECK_CONF, CHECK_IOU)
    batch = 32 if gpu >= 0 else 1
    # cuDNN keeps what it measures for one thread, and evaluate starts new ones: in every validation
    # it would measure every shape anew, two seconds each.
    measured = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = False
    try:
        found = evaluate(predictor, eval_set, batch, args.single_cls)
    finally:
        torch.backends.cudnn.benchmark = measured
    pose, box = found.accuracy.pose_rows[0], found.accuracy.box_rows[0]
    figures = {
        "kpt_p": pose.precision, "kpt_r": pose.recall, "kpt_ap50": pose.ap50, "kpt_ap": pose.ap,
        "box_p": box.precision, "box_r": box.recall, "box_ap50": box.ap50, "box_ap": box.ap,
        "plain_score": plain_score(predictor),
    }  # fmt: skip
    return figures, [row.ap for row in found.accuracy.pose_rows[1:]]


def plain_score(predictor: Any) -> float:
    """Highest score, 0..1, in pictures that are grey all over.

    Training shows people everywhere, so nothing keeps it low, and no AP tells.
    """
    size = (*predictor.net_hw, 3)
    scores = [
        poses.scores.max(initial=0.0)
        for grey in PLAIN_GREYS
        for poses in predictor([np.full(size, grey, np.uint8)])
    ]
    return float(max(scores))


def reweight(batches: TrainBatches, per_class: List[float], names: List[str]) -> None:
    """Draw images more often whose classes are rare or badly found (--image-weights)."""
    labels = batches.train_set.labels
    counts = np.bincount(np.concatenate([item.classes for item in labels]), minlength=len(names))[
        : len(names)
    ]
    need = (1 - np.clip(np.array(per_class[: len(names)] or [0.0]), 0, 1)) ** 2
    need = np.resize(need, len(names)) / np.maximum(counts, 1)
    weight = np.array([need[item.classes].sum() for item in labels]) + 1e-12
    total = batches.train_set.repeats.sum()
    weight *= batches.train_set.repeats
    batches.draws = weight * (total / weight.sum())
    batches.restart()


def line(row: Dict[str, float], epochs: int) -> str:
    """An epoch for people."""
    text = "epoch %d/%d  loss %.4f (box %.4f kpt %.4f obj %.4f)  %.0f images/s" % (
        row["epoch"], epochs, row["loss"], row["box"], row["kpt"], row["obj"],
        row["images_per_s"])  # fmt: skip
    if row["memory_gb"]:
        text += "  %.1f GB" % row["memory_gb"]
    if "kpt_ap" in row:
        text += "  kpt AP %.4f AP50 %.4f  box AP50 %.4f" % (
            row["kpt_ap"], row["kpt_ap50"], row["box_ap50"])  # fmt: skip
    if row.get("plain_score", 0.0) > PLAIN_LIMIT:
        text += "  sees people in plain grey (score %.2f)" % row["plain_score"]
    return text


def run_folder(args: argparse.Namespace) -> Path:
    if args.resume:
        return Path(args.resume).resolve().parents[1]
    return increment_dir(args.project, args.name, args.exist_ok)


def describe(
    args: argparse.Namespace, hyp: Hyp, folder: Path, train_set: TrainSet, trainer: Trainer
) -> None:
    """opt.yaml, hyp.yaml, an overview of the labels, the first batches."""
    import yaml

    for name, content in (("opt.yaml", vars(args)), ("hyp.yaml", hyp._asdict())):
        with atomic_path(folder / name) as tmp:
            tmp.write_text(yaml.safe_dump(dict(content), sort_keys=False), encoding="utf-8")
    charts.labels_chart(folder / "labels.png", train_set.labels)
    for i in range(min(DRAWN_BATCHES, trainer.batches.steps)):
        batch = trainer.batches.one(0, i)
        images, _ = to_device(batch, trainer.options.device)
        path = folder / ("train_batch%d.jpg" % i)
        run_log.write_pictures(path, images, batch.persons, trainer.ema.model.names)


class Progress:
    """How far a run is, and its files: only the first process writes."""

    def __init__(self, args: argparse.Namespace, hyp: Hyp, folder: Path, ranks: Ranks):
        self.args, self.hyp, self.folder = args, hyp, folder
        self.epoch = 0  # done
        self.best, self.best_epoch = -1.0, 0
        self._log = run_log.TrainLog(folder) if ranks.first else None
        self._saved_at, self._save_s = 0.0, 0.0

    def take_up(self, state: TrainingState) -> None:
        self.epoch = int(state.plain["epoch"])
        self.best = float(state.plain["best"])
        self.best_epoch = int(state.plain["best_epoch"])
        if self._log is not None:
            self._log.rows = run_log.read_rows(self.folder / "results.csv", self.epoch)

    @property
    def best_plain(self) -> float:
        """plain_score of the best epoch."""
        rows = self._log.rows if self._log is not None else []
        return max((r.get("plain_score", 0.0) for r in rows if r["epoch"] == self.best_epoch),
                   default=0.0)  # fmt: skip

    def finish_epoch(self, trainer: Trainer, row: Dict[str, float], last: bool) -> None:
        """Write the row, best.pt if it is one, last.pt."""
        self.epoch = int(row["epoch"])
        assert self._log is not None
        self._log.add(row)
        if row.get("kpt_ap", -1.0) > self.best or (last and not self.best_epoch):
            self.best, self.best_epoch = row.get("kpt_ap", -1.0), self.epoch
            if last or not self.args.nosave:
                self._save(self.folder / "weights" / "best.pt", trainer, row)
        if last or self.args.nosave:
            return
        pause = time.perf_counter() - self._saved_at
        if not self._saved_at or pause * SAVE_SHARE >= self._save_s:
            started = time.perf_counter()
            self._save(self.folder / "weights" / "last.pt", trainer, row, resumable=True)
            self._saved_at = time.perf_counter()
            self._save_s = self._saved_at - started

    def end(self, trainer: Trainer) -> None:
        """The last weights as a plain checkpoint; the curves."""
        assert self._log is not None
        row = self._log.rows[-1] if self._log.rows else {}
        self._save(self.folder / "weights" / "last.pt", trainer, row)
        self._log.close()

    def _save(
        self, path: Path, trainer: Trainer, row: Dict[str, float], resumable: bool = False
    ) -> None:
        meta: Dict[str, Any] = {
            "epoch": self.epoch,
            "epochs": self.args.epochs,
            "imgsz": list(trainer.batches.spec.size),
            "metrics": {k: float(v) for k, v in row.items()},
        }
        if not resumable:
            save_checkpoint(path, trainer.ema.model, meta, half=True)
            return
        state = trainer.state()
        flags = {k: v for k, v in vars(self.args).items() if k != "resume"}
        state.plain.update(
            epoch=self.epoch,
            best=self.best,
            best_epoch=self.best_epoch,
            args=flags,
            hyp=dict(self.hyp._asdict()),
        )
        save_checkpoint(path, trainer.ema.model, meta, training=state)


if __name__ == "__main__":
    cli.run(main, get_args_parser())
