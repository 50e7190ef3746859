"""One checkpoint out of several of the same training run: the mean of their weights.

    python models/average.py --weights best.pt last.pt --shares 0.7 0.3 --out averaged.pt

Weights along one run lie in one valley, and their mean is often as accurate and steadier on
images unlike those of the training (Izmailov et al. 2018, arXiv 1803.05407; Wortsman et al. 2022,
arXiv 2203.05482). Batch statistics are averaged, too. Test the result: the mean of different runs
is of no use.
"""

import argparse
import os
import sys
from pathlib import Path
from typing import Any, Dict, List, Sequence

if not __package__:
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from utils import cli

try:
    import torch
except ImportError as error:
    cli.no_torch(error, __name__, "a .pt")

from models.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from models.yolo import Model
from utils.errors import InputError
from utils.outputs import check_replaceable

FIXED = ("anchors", "anchor_grid")  # no weights: they have to be the same
MAX_SHARE = 1e6


def average(
    checkpoints: Sequence[Checkpoint], shares: Sequence[float], names: Sequence[str]
) -> Checkpoint:
    """The mean of checkpoints.

    Args:
        shares: how much each one counts, > 0; they need not add up to 1.
        names: of the files, for the messages and `meta`.

    Raises InputError if they are not of one network, or hold something that is no number.
    """
    first = checkpoints[0]
    whole = sum(shares)
    total: Dict[str, torch.Tensor] = {}
    for checkpoint, share, name in zip(checkpoints, shares, names):
        state = checkpoint.model.state_dict()
        _check_alike(checkpoint.model, first.model, names[0], name=name)
        for key, tensor in state.items():
            if not bool(torch.isfinite(tensor).all()):
                raise InputError("`weights` %s: %s is not finite" % (name, key))
            if key.rsplit(".", 1)[-1] in FIXED or not tensor.is_floating_point():
                total.setdefault(key, tensor)
            else:
                part = tensor.double() * (share / whole)
                total[key] = total[key] + part if key in total else part
    first.model.load_state_dict(total)  # rounds to the type of each
    meta: Dict[str, Any] = {k: v for k, v in first.meta.items() if k == "imgsz"}
    meta["average"] = [
        {"epoch": c.meta.get("epoch"), "share": share / whole}
        for c, share in zip(checkpoints, shares)
    ]
    return Checkpoint(first.model, meta)


def _check_alike(model: Model, other: Model, first: str, *, name: str) -> None:
    """Raises InputError unless both are of one network."""
    state, wanted = model.state_dict(), other.state_dict()
    different = ["classes"] if list(model.names) != list(other.names) else []
    different += [k for k in wanted if k not in state or state[k].shape != wanted[k].shape]
    different += [k for k in state if k not in wanted]
    different += [
        k
        for k in wanted
        if k.rsplit(".", 1)[-1] in FIXED and k in state and not torch.equal(state[k], wanted[k])
    ]
    if model.cfg != other.cfg:
        different.append("cfg")
    if different:
        raise InputError(
            "`weights` %s: not of the network of %s (%s); expected checkpoints of one run"
            % (name, first, different[0])
        )


def get_args_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "average.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--weights", nargs="+", required=True, help="checkpoints of one run (.pt)")
    add("--shares", nargs="+", type=float,
        help="how much each one counts; they need not add up to 1 [all alike]")  # fmt: skip
    add("--out", required=True, help="checkpoint to write (.pt), FP16")
    cli.add_overwrite(parser)
    return parser


def main(args: argparse.Namespace) -> None:
    shares: List[float] = args.shares or [1.0] * len(args.weights)
    if len(args.weights) < 2:
        raise InputError("`weights`: expected two or more checkpoints")
    if len(shares) != len(args.weights):
        raise InputError("`shares`: %d for %d `weights`" % (len(shares), len(args.weights)))
    if not all(0 < share <= MAX_SHARE for share in shares):
        raise InputError("`shares`: expected numbers above 0, at most %g" % MAX_SHARE)
    if Path(args.out).suffix != ".pt":
        raise InputError("`out` %s: expected a file name ending in .pt" % args.out)
    if os.path.realpath(args.out) in [os.path.realpath(path) for path in args.weights]:
        raise InputError("`out` %s: would overwrite one of `weights`" % args.out)
    check_replaceable(args.out)
    checkpoints = [load_checkpoint(path) for path in args.weights]
    for key in ("epochs", "imgsz"):
        planned = [c.meta.get(key) for c in checkpoints]
        if any(value != planned[0] for value in planned):
            print("warning: %s differ (%s): of one run? The mean of different runs is of no use"
                  % (key, ", ".join(map(str, planned))), file=sys.stderr)  # fmt: skip
    found = average(checkpoints, shares, args.weights)
    replaced = Path(args.out).exists()
    save_checkpoint(args.out, found.model, found.meta, half=True)
    if replaced:
        print("an earlier %s was replaced" % args.out)
    parts = ["%.2f x epoch %s" % (part["share"], part["epoch"]) for part in found.meta["average"]]
    print("%s: %s" % (args.out, " + ".join(parts)))


if __name__ == "__main__":
    cli.run(main, get_args_parser())
