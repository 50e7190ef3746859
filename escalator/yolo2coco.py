"""YOLO-pose label files -> one COCO keypoints JSON.

    python escalator/yolo2coco.py --data_file data/custom_kpts/val.txt --save_file val.json
    python escalator/yolo2coco.py --data_file data/custom_kpts/images --save_file all.json

--data_file is a list file of images, or a folder of them; the labels of images/a.jpg are
labels/a.txt. One entry an image; areas are 0.53 of the boxes; ids as json2coco.py gives them. An
image or label file that cannot be read is named, the rest is written, and the exit code is 1; a
broken line of a label file costs this line, and the image if no line is left.
"""

import argparse
import sys
from pathlib import Path
from typing import List, NamedTuple, Optional, Sequence

if not __package__:
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from escalator.json2coco import file_names
from escalator.json2yolo import LabelOptions
from escalator.tally import Tally, usable
from utils import cli
from utils.dataset.annotations import Fault
from utils.dataset.coco import CocoImage, image_ids, write_coco
from utils.dataset.images import read_image_hw
from utils.dataset.label_points import label_points
from utils.dataset.labels import label_path, labels_to_ground_truth, list_images, scan_labels
from utils.errors import InputError, reason_of
from utils.files import check_output
from utils.parallel import parallel_map
from utils.pose.ground_truth import GroundTruth, empty_ground_truth
from utils.pose.letterbox import HW
from utils.reading import read_text


def get_args_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "yolo2coco.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--data_file", "--data-file", required=True, help="list file of images, or their folder")
    add("--save_file", "--save-file", required=True, help="the COCO JSON to write")
    add("--names", nargs="+", metavar="NAME",
        help="class names; the first becomes category 1 [as labelled or person]")  # fmt: skip
    add("--nkpt", type=int, help="keypoints of a person [as the labels say]")
    add("--data", default="", help="data yaml that declares classes and keypoints "
        "[keypoints.yaml beside the labels, else the labels tell]")  # fmt: skip
    add("--workers", type=int, default=0, help="processes [0: one a core]")
    cli.add_overwrite(parser)
    return parser


CUT = "persons with keypoints outside the image, now not labelled, or boxes cut at its border"


class Pair(NamedTuple):
    """An image whose labels are to be read."""

    image: str
    nc: int
    nkpt: int
    dims: int  # values of a keypoint in a label


class Read(NamedTuple):
    """What was read of a Pair; hw is None if that failed."""

    ground_truth: GroundTruth
    hw: Optional[HW]
    faults: List[Fault]
    changes: int = 0  # lines with something outside the image


def read_pair(pair: Pair) -> Read:
    """Size of an image, and its labels in its pixels."""
    label = label_path(pair.image)
    failed = empty_ground_truth(pair.nkpt)
    try:
        hw = read_image_hw(pair.image)
    except (ValueError, OSError) as e:
        return Read(failed, None, [Fault(pair.image, reason_of(e))])
    try:
        text = read_text(label, "label file")
    except InputError as e:
        return Read(failed, None, [Fault("", str(e))])
    scan = scan_labels(text, pair.nkpt, pair.nc, dims=pair.dims)
    faults = [Fault("%s, line %d" % (label, line), why) for line, why in scan.faults]
    return Read(labels_to_ground_truth(scan.labels, hw), hw, faults, len(scan.changes))


def yolo2coco(
    data_file: str,
    save_file: str,
    names: Optional[Sequence[str]] = None,
    *,
    nkpt: int = 0,
    data: str = "",
    workers: int = 0,
) -> Tally:
    """Convert; see the text above. Raises InputError, and writes nothing, if no image is left."""
    tally = Tally()
    check_output(save_file)
    images_found = list_images(data_file)
    names, declared = label_points(images_found, names, nkpt, data=data)
    skel = declared.skeleton
    pairs = [Pair(path, len(names), skel.count, declared.dims) for path in images_found]
    paths, ground_truths, sizes = [], [], []
    for pair, read in zip(pairs, parallel_map(read_pair, pairs, "yolo2coco", workers=workers)):
        tally.faults += read.faults
        if read.hw is not None and usable(read.ground_truth, read.faults):
            tally.add(read.ground_truth.count, {CUT: read.changes})
            paths.append(pair.image)
            ground_truths.append(read.ground_truth)
            sizes.append(read.hw)
    if not paths:
        tally.finish("images converted", get_args_parser())
        raise InputError("`data_file` %s: no image could be converted" % data_file)
    ids = image_ids(paths)
    images = {i: CocoImage(*entry) for i, entry in zip(ids, zip(file_names(paths), sizes))}
    write_coco(save_file, images, dict(zip(ids, ground_truths)), names=names, skel=skel)
    return tally


def main(args: argparse.Namespace) -> None:
    options = cli.config_of(LabelOptions, args)
    if not args.save_file.lower().endswith(".json"):
        raise InputError("`save_file` %s: expected the name of a .json file" % args.save_file)
    tally = yolo2coco(
        args.data_file,
        args.save_file,
        options.names,
        nkpt=options.nkpt or 0,
        data=args.data,
        workers=options.workers,
    )
    tally.finish("images in %s" % args.save_file, get_args_parser())


if __name__ == "__main__":
    cli.run(main, get_args_parser())
