"""Look at the labels: boxes, skeletons and points drawn on some images.

    python escalator/visual.py --data_root data/custom_kpts --data_file train.txt --visual_num 5 \\
        --save_dir runs/visual
    python escalator/visual.py --data_root data/custom_kpts --data_file train.txt --ids

--data_file is a list file of images, or a folder of them, below --data_root. Green is the person's
left, orange the right; a point with a dark core is labelled as hidden (v 1). --ids writes the
number of each keypoint beside it: 0 nose, 1 left eye, ..., 16 right ankle. Images of an earlier
run with the same names are replaced; other files of these names are an error without --overwrite.
What cannot be read is named, and the exit code is 1.
"""

import argparse
import os
import random
import sys
from pathlib import Path
from typing import Dict, List, Optional, Sequence, Set, Tuple

if not __package__:
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from utils import cli
from utils.dataset.images import read_image
from utils.dataset.label_points import label_points
from utils.dataset.labels import label_path, labels_to_ground_truth, list_images, read_labels
from utils.errors import InputError, check_limits, reason_of
from utils.outputs import check_all_replaceable
from utils.pose.drawing import draw_ground_truth
from utils.pose.skeleton import Declared
from utils.runtime.writers import write_image
from utils.words import counted


def get_args_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "visual.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--data_root", "--data-root", default="data/custom_kpts",
        help="folder of --data_file [data/custom_kpts]")  # fmt: skip
    add("--data_file", "--data-file", default="train.txt",
        help="list file of images, or a folder of them [train.txt]")  # fmt: skip
    add("--visual_num", "--visual-num", type=int, default=5, help="images to draw, 0: all [5]")
    add("--save_dir", "--save-dir", default="runs/visual", help="folder of the images "
        "[runs/visual]")  # fmt: skip
    add("--ids", action="store_true", help="number each keypoint")
    add("--names", nargs="+", metavar="NAME",
        help="class names; several are written at the boxes [as labelled or person]")  # fmt: skip
    add("--nkpt", type=int, help="keypoints of a person [as the labels say]")
    add("--data", default="", help="data yaml that declares classes and keypoints "
        "[keypoints.yaml beside the labels, else the labels tell]")  # fmt: skip
    add("--line-thickness", "--line_thickness", type=int, default=0,
        help="line width, px [0: by image size]")  # fmt: skip
    add("--seed", type=int, default=0, help="of the choice of images [0]")
    cli.add_overwrite(parser)
    return parser


def draw(
    path: str,
    names: Sequence[str],
    declared: Declared,
    *,
    line_width: int = 0,
    ids: bool = False,
) -> np.ndarray:
    """The image with its labels on it. Raises InputError if one of both cannot be read."""
    label = label_path(path)
    if not label.is_file():
        raise InputError("%s: no such file (labels of %s)" % (label, path))
    labels = read_labels(label, declared.skeleton.count, len(names), dims=declared.dims)
    try:
        image = read_image(path)
    except (ValueError, OSError) as e:
        raise InputError("%s: %s" % (path, reason_of(e))) from e
    ground_truth = labels_to_ground_truth(labels, (image.shape[0], image.shape[1]))
    draw_ground_truth(
        image, ground_truth, names, skel=declared.skeleton, line_width=line_width, ids=ids
    )
    return image


def image_folders(paths: Sequence[str]) -> Set[str]:
    """Real paths of the folders that hold the images, or links to them and what these lead to."""
    links = [os.path.realpath(p) for p in paths if os.path.islink(p)]
    return {os.path.realpath(d) for d in {os.path.dirname(p) for p in [*paths, *links]}}


def target_names(paths: Sequence[str]) -> List[str]:
    """A .jpg for each image; a, a_2 for two of one name."""
    taken: set = set()
    names = []
    for path in paths:
        stem = name = os.path.splitext(os.path.basename(path))[0]
        number = 1
        while name.lower() in taken:
            number += 1
            name = "%s_%d" % (stem, number)
        taken.add(name.lower())
        names.append(name + ".jpg")
    return names


def draw_labels(
    paths: Sequence[str],
    save_dir: str,
    count: int = 0,
    *,
    seed: int = 0,
    names: Optional[Sequence[str]] = None,
    nkpt: int = 0,
    data: str = "",
    line_width: int = 0,
    ids: bool = False,
) -> Tuple[int, Dict[str, str]]:
    """Draw the labels of `count` of the images, 0: of all, into `save_dir`.

    Returns how many were tried, and of those that could not be drawn the reasons.

    Args: seed: of the choice. names, nkpt, data: see label_points. line_width: px, 0: by image
    size. ids: number the keypoints.

    Raises InputError if the drawn images would replace images or results of others.
    """
    if os.path.realpath(save_dir) in image_folders(paths):
        raise InputError("`save_dir` %s: the drawn images would overwrite the originals" % save_dir)
    if 0 < count < len(paths):
        chosen = random.Random(seed).sample(range(len(paths)), count)
        paths = [paths[i] for i in sorted(chosen)]
    known, declared = label_points(paths, names, nkpt, data=data)
    if not declared.skeleton.limbs:
        many = counted(declared.skeleton.count, "keypoint")
        print("%s, no limbs known: points only; a data yaml (--data) can declare limbs" % many)
    targets = [Path(save_dir) / name for name in target_names(paths)]
    check_all_replaceable(targets)
    failed: Dict[str, str] = {}
    for path, target in zip(paths, targets):
        try:
            image = draw(path, known, declared, line_width=line_width, ids=ids)
        except InputError as e:
            failed[path] = str(e)
            continue
        write_image(target, image)
    return len(paths), failed


def main(args: argparse.Namespace) -> None:
    check_limits(args, {"visual_num": (0, 1e9), "line_thickness": (0, 1000), "nkpt": (1, 1000)})
    paths = list_images(os.path.join(args.data_root, args.data_file))
    tried, failed = draw_labels(
        paths,
        args.save_dir,
        args.visual_num,
        seed=args.seed,
        names=args.names,
        nkpt=args.nkpt or 0,
        data=args.data,
        line_width=args.line_thickness,
        ids=args.ids,
    )
    for reason in failed.values():
        print("failed: %s" % reason, file=sys.stderr)
    print("%s in %s" % (counted(tried - len(failed), "image"), args.save_dir))
    if failed:
        raise InputError("%d of %d images could not be drawn (see above)" % (len(failed), tried))


if __name__ == "__main__":
    cli.run(main, get_args_parser())
