"""Split a folder of images into train, val and test lists.

    python escalator/split.py --image_dir data/custom_kpts/images --prefix_path ./images/ \\
        --out_path data/custom_kpts --split 0.7 0.2 0.1

Writes train.txt, val.txt and test.txt into --out_path, one image a line: the prefix, then the path
below --image_dir. Relative lines are relative to the list file. Every image is in exactly one
list; the same seed gives the same lists on every machine. Lists of an earlier run are replaced,
and removed where the ratio is 0; lists from elsewhere are an error without --overwrite. With
--stratified each list gets its share of the images with nobody, with one, with two or three, and
with more persons on them (by their label files).
"""

import argparse
import contextlib
import os
import random
import sys
from pathlib import Path
from typing import Dict, List, Sequence

if not __package__:
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from utils import cli
from utils.dataset.labels import label_path, list_images
from utils.errors import InputError, warn
from utils.files import atomic_path, check_line
from utils.outputs import check_all_replaceable
from utils.reading import read_text
from utils.words import counted

LISTS = ("train", "val", "test")
CROWDED = 4  # persons; more make no difference to --stratified


def get_args_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "split.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--image_dir", "--image-dir", default="data/custom_kpts/images",
        help="folder of images, with its subfolders [data/custom_kpts/images]")  # fmt: skip
    add("--prefix_path", "--prefix-path", default="./images/",
        help="what each line starts with [./images/]")  # fmt: skip
    add("--out_path", "--out-path", default="data/custom_kpts",
        help="folder of the lists [data/custom_kpts]")  # fmt: skip
    add("--split", nargs="+", type=float, default=[0.7, 0.2, 0.1], metavar="RATIO",
        help="of train, val and test; they sum to 1 [0.7 0.2 0.1]")  # fmt: skip
    add("--stratified", action="store_true",
        help="spread images with 0, 1, 2 to 3 and more persons evenly")  # fmt: skip
    add("--seed", type=int, default=0, help="of the shuffle [0]")
    cli.add_overwrite(parser)
    return parser


def check_ratios(ratios: Sequence[float]) -> List[float]:
    """Three ratios. Raises InputError for what is no partition."""
    text = " ".join("%g" % r for r in ratios)
    if not 2 <= len(ratios) <= len(LISTS):
        raise InputError("`split` %s: expected two or three ratios: train val test" % text)
    if not all(0 <= r <= 1 for r in ratios):
        raise InputError("`split` %s: each ratio must be 0 to 1" % text)
    if abs(sum(ratios) - 1) > 1e-6:
        raise InputError("`split` %s: the ratios sum to %g, not 1" % (text, sum(ratios)))
    return list(ratios) + [0.0] * (len(LISTS) - len(ratios))


def split_counts(total: int, ratios: Sequence[float]) -> List[int]:
    """How many of `total` each ratio gets: they sum to `total`, none is off by 1 or more.

    Where there are enough, every ratio above 0 gets at least one, from the largest.
    """
    exact = [total * r for r in ratios]
    counts = [int(e + 1e-9) for e in exact]
    # the largest remainders get what is left; of equal ones the first
    by_remainder = sorted(range(len(ratios)), key=lambda i: (counts[i] - exact[i], i))
    for i in by_remainder[: total - sum(counts)]:
        counts[i] += 1
    for i, ratio in enumerate(ratios):
        largest = counts.index(max(counts))
        if ratio > 0 and not counts[i] and counts[largest] > 1:
            counts[i], counts[largest] = 1, counts[largest] - 1
    return counts


def split_names(
    names: Sequence[str], ratios: Sequence[float], seed: int, *, groups: Sequence[int] = ()
) -> List[List[str]]:
    """Partition names, each part sorted.

    Args: groups: with one number a name, names of one number are spread over all parts alike.
    """
    order = sorted(range(len(names)), key=lambda i: names[i])
    random.Random(seed).shuffle(order)
    if groups:
        # each group spread evenly over 0..1, so that cutting anywhere cuts each group alike
        place: Dict[int, float] = {}
        for group in set(groups):
            members = [i for i in order if groups[i] == group]
            place.update((i, (rank + 0.5) / len(members)) for rank, i in enumerate(members))
        order.sort(key=lambda i: place[i])
    parts, start = [], 0
    for count in split_counts(len(names), ratios):
        parts.append(sorted(names[i] for i in order[start : start + count]))
        start += count
    return parts


def persons_on(image: str) -> int:
    """Lines of the label file, at most CROWDED, and 2 for 3. Raises InputError without one."""
    try:
        lines = read_text(label_path(image), "label file").split("\n")
    except InputError as e:
        raise InputError("`stratified`: %s; convert the annotations first" % e) from e
    count = min(sum(bool(line.strip()) for line in lines), CROWDED)
    return 2 if count == 3 else count


def split(
    image_dir: str,
    prefix_path: str,
    out_path: str,
    *,
    ratios: Sequence[float],
    stratified: bool = False,
    seed: int = 0,
) -> List[int]:
    """Write the lists; returns how many images each has.

    Raises InputError before any is written: lists of two splits would overlap.
    """
    ratios = check_ratios(ratios)
    if not os.path.isdir(image_dir):
        raise InputError("`image_dir` %s: no such folder" % image_dir)
    images = list_images(image_dir)
    names = [os.path.relpath(p, image_dir).replace(os.sep, "/") for p in images]
    stems: Dict[str, str] = {}
    for name in names:
        other = stems.setdefault(os.path.splitext(name)[0], name)
        if other != name:
            raise InputError(
                "%s: %s and %s would share their labels; rename one" % (image_dir, other, name)
            )
    wanted = sum(r > 0 for r in ratios)
    if len(names) < wanted:
        raise InputError("%s: %d images for %d lists" % (image_dir, len(names), wanted))
    groups = [persons_on(p) for p in images] if stratified else ()
    parts = split_names(names, ratios, seed, groups=groups)
    for name in names:
        check_line(prefix_path + name)
    check_all_replaceable(Path(out_path) / (task + ".txt") for task in LISTS)
    done = []
    with contextlib.ExitStack() as stack:  # at its end the lists replace those of an earlier split
        for task, part in zip(LISTS, parts):
            path = Path(out_path) / (task + ".txt")
            if part:
                text = "".join("%s%s\n" % (prefix_path, name) for name in part)
                stack.enter_context(atomic_path(path)).write_bytes(text.encode("utf-8"))
                done.append("%s: %s" % (path, counted(len(part), "image")))
            elif path.exists():
                path.unlink()
                done.append("%s: of an earlier split, removed" % path)
    print("\n".join(done))
    first = os.path.join(out_path, prefix_path + names[0])
    if not os.path.exists(first):
        warn("`prefix_path` %s: there is no %s" % (prefix_path, os.path.normpath(first)))
    return [len(part) for part in parts]


def main(args: argparse.Namespace) -> None:
    split(
        args.image_dir,
        args.prefix_path,
        args.out_path,
        ratios=args.split,
        stratified=args.stratified,
        seed=args.seed,
    )


if __name__ == "__main__":
    cli.run(main, get_args_parser())
