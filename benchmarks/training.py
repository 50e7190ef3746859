"""Images a second of training, whole and in parts, in one run.

    python benchmarks/training.py --cfg models/hub/yolov5s6_kpts.yaml --data data/coco_kpts.yaml \\
        --batch-size 128 --img-size 640 --device 0 --workers 15 --cache-images
    torchrun --nproc_per_node 2 benchmarks/training.py ... --device 0,1

loader: files to batches of bytes. warp: bytes to images on the device. images: both, and the
copy between. network: forward, loss, backward, update on one batch that stays. host: the same until
the last kernel is launched: what a GPU of any speed would have to wait for. whole: everything, as
train.py runs it, `--steps` after as many that fill the queues.
"""

import argparse
import sys
import time
from pathlib import Path
from typing import Callable, List, Tuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

import train
from models import common
from utils import cli
from utils.dataset.data_yaml import read_data
from utils.training import distributed
from utils.training.batches import TrainBatches
from utils.training.config import TrainConfig
from utils.training.hyper_parameters import read_hyp
from utils.training.network import build_model
from utils.training.run import batch_spec, make_batches
from utils.training.train_set import read_train_set
from utils.training.trainer import Trainer, TrainerOptions, to_device


def get_args_parser() -> argparse.ArgumentParser:
    parser = train.get_args_parser()
    add = parser.add_argument
    add("--steps", type=int, default=150, help="of each part")
    add("--plain-norm", action="store_true", help="PyTorch's own batch normalisation and SiLU")
    add("--network-only", action="store_true", help="the other parts are left out")
    return parser


def make_trainer(
    config: TrainConfig, ranks: distributed.Ranks, device: torch.device, *, least: int
) -> Tuple[Trainer, TrainBatches, List[str]]:
    """A trainer, its batches, at least `least` an epoch, and what there is to say of the model."""
    data = read_data(config.data)
    hyp = read_hyp(config.hyp)
    model, lines = build_model(config, data)
    train_set = read_train_set(data, single_class=config.single_cls, workers=max(config.loaders, 1))
    factor = least * config.batch_size / train_set.repeats.sum()
    train_set = train_set._replace(repeats=train_set.repeats * factor)
    spec = batch_spec(config, model, size=config.size, ranks=ranks, pin=device.type == "cuda")
    batches = make_batches(config, train_set, hyp, spec=spec)
    options = TrainerOptions(
        epochs=10, device=device, ranks=ranks, adam=config.adam, amp=not config.no_amp,
        compile=config.compile, graphs=not config.no_graphs, progress=False,
    )  # fmt: skip
    return Trainer(model, batches, hyp, options=options), batches, lines


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def whole(trainer: Trainer, say: Callable[..., None]) -> None:
    for epoch in (2, 3):
        stats = trainer.train_epoch(epoch)
        say("%-8s %8.0f images/s, %.1f GB" % ("whole", stats.images_per_s, stats.memory_gb))


def main(args: argparse.Namespace) -> None:
    config = cli.config_of(TrainConfig, args)
    ranks = distributed.from_environment()
    device = distributed.own_device(config.device, ranks)
    gpu = device.type == "cuda"
    distributed.join_group(ranks, gpu=gpu)
    if args.plain_norm:
        common.usable = lambda *_: False
    trainer, batches, lines = make_trainer(config, ranks, device, least=args.steps)
    count = batches.steps * config.batch_size

    def say(*words) -> None:
        if ranks.first:
            print(*words, flush=True)

    say(cli.with_flags("\n".join(lines)), "on %d x" % ranks.world, distributed.device_name(device))

    def clock(name: str, run, wait: bool = True) -> None:
        synchronize(device)
        distributed.wait(ranks)
        started = time.perf_counter()
        run()
        if wait:
            synchronize(device)
        elapsed = time.perf_counter() - started
        synchronize(device)
        say("%-8s %8.0f images/s, %5.1f ms a step" % (name, count / elapsed,
                                                     1e3 * elapsed / batches.steps))  # fmt: skip

    batch = batches.one(0, 0)
    say("pixels a batch: %.0f MB, matches %s" % (len(batch.pixels) / 1e6, batch.matches.counts))
    images, targets = to_device(batch, device)
    if gpu:
        images = images.to(memory_format=torch.channels_last)
    trainer.network.train()

    def steps() -> None:
        for step in range(batches.steps):
            trainer._step(images, targets, step=step, last=False)

    def warps() -> None:
        for _ in range(batches.steps):
            to_device(batch, device)

    started = time.perf_counter()
    for step in range(5):
        trainer._step(images, targets, step=step, last=False)
    synchronize(device)
    say("first 5 steps: %.1f s" % (time.perf_counter() - started))
    clock("network", steps)
    clock("host", steps, wait=False)
    if not args.network_only:
        clock("warp", warps)
        for _ in range(2 if config.cache_images else 1):  # the first time fills the memory
            clock("loader", lambda: [None for _ in batches.epoch(0)])
        clock("images", lambda: [None for _ in trainer._device_batches(batches.epoch(1))])
        whole(trainer, say)
    distributed.leave_group()


if __name__ == "__main__":
    cli.run(main, get_args_parser())
