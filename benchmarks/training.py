"""Images a second of training, whole and in parts, in one run.

    python benchmarks/training.py --cfg models/hub/yolov5s6_kpts.yaml --data data/coco_kpts.yaml \\
        --batch-size 128 --img-size 640 --device 0 --workers 16

loader: files to batches of bytes. warp: bytes to pictures on the device. network: forward, loss,
backward, update on one batch that stays. whole: everything, as train.py runs it.
"""

import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

import train
from models import common
from utils import cli
from utils.data_yaml import read_data
from utils.distributed import Ranks
from utils.hyper_parameters import read_hyp
from utils.letterbox import parse_size
from utils.train_set import read_train_set
from utils.trainer import Options, Trainer, to_device


def get_args_parser() -> argparse.ArgumentParser:
    parser = train.get_args_parser()
    parser.add_argument("--steps", type=int, default=40, help="of each part")
    parser.add_argument("--plain-norm", action="store_true", help="PyTorch's own operations")
    parser.add_argument("--network-only", action="store_true", help="the other parts are left out")
    return parser


def main(args: argparse.Namespace) -> None:
    device = train.parse_devices(args.device)[0]
    if args.plain_norm:
        common.usable = lambda *_: False
    data = read_data(args.data)
    hyp = read_hyp(args.hyp)
    model, lines = train.build_model(args, data)
    print("\n".join(lines), "on", train.device_name(device))
    train_set = read_train_set(data, args.single_cls, args.workers)
    factor = args.steps * args.batch_size / train_set.repeats.sum()
    train_set = train_set._replace(repeats=train_set.repeats * factor)
    size = parse_size(args.img_size)
    batches = train.make_batches(args, model, train_set, hyp, size, Ranks(), device)
    amp = not args.no_amp
    options = Options(
        10, device, amp=amp, compile=args.compile, graphs=not args.no_graphs, progress=False
    )
    trainer = Trainer(model, batches, hyp, options)
    count = batches.steps * args.batch_size

    def clock(name: str, run) -> None:
        if device.type == "cuda":
            torch.cuda.synchronize()
        started = time.perf_counter()
        run()
        if device.type == "cuda":
            torch.cuda.synchronize()
        elapsed = time.perf_counter() - started
        print("%-8s %8.0f images/s" % (name, count / elapsed), flush=True)

    for _ in range(0 if args.network_only else 2 if args.cache_images else 1):
        clock("loader", lambda: [None for _ in batches.epoch(0)])
    batch = batches.one(0, 0)
    print("pixels a batch: %.0f MB, matches %s" % (len(batch.pixels) / 1e6, batch.matches.counts))
    images, targets = to_device(batch, device)
    clock("warp", lambda: [to_device(batch, device) for _ in range(batches.steps)])
    if device.type == "cuda":
        images = images.to(memory_format=torch.channels_last)
    trainer.network.train()
    started = time.perf_counter()
    for step in range(5):
        trainer._step(images, targets, step, False)
    if device.type == "cuda":
        torch.cuda.synchronize()
    print("first 5 steps: %.1f s" % (time.perf_counter() - started))
    clock("network", lambda: [trainer._step(images, targets, s, False)
                              for s in range(batches.steps)])  # fmt: skip
    for epoch in () if args.network_only else (1, 2):
        stats = trainer.train_epoch(epoch)
        print("%-8s %8.0f images/s, %.1f GB" % ("whole", stats.images_per_s, stats.memory_gb))


if __name__ == "__main__":
    cli.run(main, get_args_parser())
