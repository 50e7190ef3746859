"""As many COCO images as there are of one's own, to train on both without forgetting COCO.

    python escalator/extract_equivalent_coco.py --custom_data data/custom_kpts/train.txt \\
        --coco_data data/coco_kpts/train2017.txt

Writes train2017-equiv.txt beside --coco_data: lines of it, chosen by the seed, in its order, as
many as --custom_data has. An earlier one is replaced. In the data yaml:
train: [custom_kpts/train.txt, coco_kpts/train2017-equiv.txt]
"""

import argparse
import random
import sys
from pathlib import Path
from typing import List

if not __package__:
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from utils import cli
from utils.dataset.labels import read_list
from utils.errors import InputError, warn
from utils.files import atomic_path


def get_args_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "extract_equivalent_coco.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--custom_data", "--custom-data", required=True, help="list file of one's own images")
    add("--coco_data", "--coco-data", required=True, help="list file of COCO's")
    add("--seed", type=int, default=0, help="of the choice [0]")
    cli.add_overwrite(parser)
    return parser


def read_lines(path: str, parameter: str) -> List[str]:
    """The lines of a list file, each once. Raises InputError, which names the parameter."""
    try:
        return list(dict.fromkeys(read_list(path)))
    except InputError as e:
        text = "`%s` %s; expected a list file, one image path a line, as escalator/split.py writes"
        raise InputError(text % (parameter, e)) from e


def choose(lines: List[str], count: int, seed: int) -> List[str]:
    """`count` of the lines, all if there are not more, in their order."""
    if count >= len(lines):
        return lines
    return [lines[i] for i in sorted(random.Random(seed).sample(range(len(lines)), count))]


def main(args: argparse.Namespace) -> None:
    custom = read_lines(args.custom_data, "custom_data")
    coco = read_lines(args.coco_data, "coco_data")
    chosen = choose(coco, len(custom), args.seed)
    source = Path(args.coco_data)
    path = source.with_name(source.stem + "-equiv" + source.suffix)
    with atomic_path(path) as tmp:  # beside its source: relative lines stay right
        tmp.write_bytes("".join(line + "\n" for line in chosen).encode("utf-8"))
    print("%s: %d of %d lines of %s" % (path, len(chosen), len(coco), source))
    if len(chosen) < len(custom):
        warn("%s has %d lines, more than %s" % (args.custom_data, len(custom), source))


if __name__ == "__main__":
    cli.run(main, get_args_parser())
