"""Annotations -> YOLO-pose label files.

    python escalator/json2yolo.py --json_dir data/custom_kpts/annotations \\
        --label_dir data/custom_kpts/labels
    python escalator/json2yolo.py --json_dir person_keypoints_val2017.json \\
        --image_dir data/coco_kpts/images/val2017 --label_dir data/coco_kpts/labels/val2017

--json_dir is a folder of JSON files, one an image:

    [{"keypoints": [x1, y1, ..., x17, y17], "bbox": [x, y, w, h]}, ...]

in pixels, 0, 0 for a missing keypoint, every other one visible (51 numbers x, y, v keep v); or
files of labelme; or a COCO JSON as COCO, CVAT and Roboflow write it, or a folder of these.

Classes and keypoints are those that a COCO JSON declares or labelme's files use; where they are not
COCO's person, keypoints.yaml beside the labels says what they are, and training reads it.

a.json becomes a.txt, one person a line: class, cx cy w h, 17 x (x y v), over the image size; a
file without a person becomes an empty one. Files of an earlier run are replaced, never added to;
labels from elsewhere, or changed by hand since, are an error without --overwrite. On the way:
  - bbox [] or none: the box around the labelled keypoints, 10 % of its longer side larger on
    each side. Neither bbox nor two keypoints is an error of that person.
  - boxes are cut at the border of the image.
  - a point up to 2 % of the image outside is moved to its border; further out it is not labelled.
  - crowds of a COCO JSON are left out.
Each of these is counted and printed. What cannot be converted is named, with file and person; the
rest is converted, and the exit code is 1. An image of which no person can be converted gets a label
file that holds the word not-converted, so that training leaves it out: one without a label file
counts as an image with nobody on it.
"""

import argparse
import dataclasses
import os
import sys
from pathlib import Path
from typing import Dict, List, NamedTuple, Optional, Sequence, Tuple

if not __package__:
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from escalator.jobs import NO_JSON, Job, coco_among, find_jobs, load
from escalator.survey import PERSON, Points, survey
from escalator.tally import Tally, usable
from utils import cli
from utils.dataset.annotations import Fault
from utils.dataset.labels import (
    ground_truth_to_labels,
    label_path,
    write_labels,
    write_not_converted,
)
from utils.dataset.points_file import NAME, write_points
from utils.errors import InputError, check_limits, warn
from utils.outputs import check_all_replaceable
from utils.parallel import parallel_map
from utils.pose.keypoints import COCO

LEFT_OUT = "images that training leaves out (label file: not-converted)"


def get_args_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "json2yolo.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--json_dir", "--json-dir", required=True,
        help="folder of JSON files, one an image, or a COCO JSON")  # fmt: skip
    add("--label_dir", "--label-dir", default="",
        help="where label files go [where training looks for those of each image]")  # fmt: skip
    add("--image_dir", "--image-dir", default="",
        help="folder of the images [images beside --json_dir, else --json_dir itself]")  # fmt: skip
    add("--names", nargs="+", metavar="NAME",
        help="class names; class 0 is the first [as annotated, else person]")  # fmt: skip
    add("--nkpt", type=int, help="keypoints of a person [as the annotations say]")
    add("--data", default="", help="data yaml that declares classes and keypoints "
        "[the annotations tell]")  # fmt: skip
    add("--workers", type=int, default=0, help="processes [0: one a core]")
    cli.add_overwrite(parser)
    return parser


class Target(NamedTuple):
    """A job and the label file it becomes."""

    job: Job
    label: str


class Done(NamedTuple):
    """What became of a Target."""

    converted: bool
    persons: int
    faults: List[Fault]
    notes: Dict[str, int]
    is_coco: bool


def json2yolo(
    json_dir: str,
    label_dir: str = "",
    image_dir: str = "",
    *,
    names: Optional[Sequence[str]] = None,
    nkpt: int = 0,
    data: str = "",
    workers: int = 0,
) -> Tally:
    """Convert; see the text above. Raises InputError if there is nothing to convert."""
    tally = Tally()
    points = survey(json_dir, names, nkpt, data=data)
    print("\n".join(points.lines), end="\n" if points.lines else "")
    skel = points.skeleton
    found = find_jobs(json_dir, image_dir, points.names, skel=skel)
    tally.faults = list(found.faults)
    converted = found.jobs
    coco_files, failed = _convert_all(found.jobs, json_dir, label_dir, tally=tally, workers=workers)
    if coco_files:
        more = coco_among(found, coco_files, json_dir, image_dir=image_dir, skel=skel)
        tally.faults += more.faults
        converted = more.jobs or converted
        failed += _convert_all(more.jobs, json_dir, label_dir, tally=tally, workers=workers)[1]
    else:
        tally.notes[NO_JSON] = found.bare
    if not tally.images and not tally.faults:
        raise InputError("`json_dir` %s: no image in it" % json_dir)
    if tally.images:  # else labels of an earlier run stay
        for label in failed:
            write_not_converted(label)
        tally.notes[LEFT_OUT] = len(failed)
        _write_points(_points_folder(converted, json_dir, label_dir), points)
    return tally


def _points_folder(jobs: Sequence[Job], json_dir: str, label_dir: str) -> Path:
    """Where training looks for keypoints.yaml: the folder `labels` of the label files."""
    label = Path(_label_file(jobs[0], json_dir, label_dir)) if jobs else Path(label_dir)
    return next((p for p in label.parents if p.name == "labels"), label.parent)


def _write_points(folder: Path, points: Points) -> None:
    """keypoints.yaml beside the labels, unless they are COCO's persons, as everybody assumes."""
    usual = points.skeleton == COCO and points.names == PERSON
    if usual and not (folder / NAME).is_file():
        return
    print("%s says what the keypoints are" % write_points(folder, points.names, points.skeleton))


def _convert_all(
    jobs: List[Job], json_dir: str, label_dir: str, *, tally: Tally, workers: int
) -> Tuple[List[str], List[str]]:
    """Convert each job.

    Returns the files that turned out to be COCO JSONs, and the label files of images that could not
    be converted.
    """
    targets = [Target(job, _label_file(job, json_dir, label_dir)) for job in jobs]
    check_all_replaceable(target.label for target in targets)
    _warn_if_elsewhere(targets)
    coco_files, failed = [], []
    for target, done in zip(targets, parallel_map(convert, targets, "json2yolo", workers=workers)):
        if done.is_coco:
            coco_files.append(target.job.json or "")
        tally.faults += done.faults
        if done.converted:
            tally.add(done.persons, done.notes)
        elif not done.is_coco and target.job.image is not None:
            failed.append(target.label)
    return coco_files, failed


def convert(target: Target) -> Done:
    """Write the label file of one image, unless no person of it could be read."""
    loaded = load(target.job)
    converted = loaded.hw is not None and usable(loaded.ground_truth, loaded.faults)
    if converted and loaded.hw is not None:
        write_labels(target.label, ground_truth_to_labels(loaded.ground_truth, loaded.hw))
    return Done(
        converted,
        loaded.ground_truth.count,
        loaded.faults,
        loaded.notes,
        loaded.is_coco,
    )


def _label_file(job: Job, json_dir: str, label_dir: str) -> str:
    if not label_dir and job.image is not None:
        return str(label_path(job.image))
    folder = label_dir or os.path.join(os.path.dirname(os.path.normpath(json_dir)), "labels")
    return os.path.join(folder, *job.key.split("/")) + ".txt"


def _warn_if_elsewhere(targets: Sequence[Target]) -> None:
    """Labels that nobody will find are worth a word."""
    for job, label in targets:
        if job.image is not None and os.path.abspath(label) != os.path.abspath(
            str(label_path(job.image))
        ):
            warn(
                "training looks for the labels of %s in %s, not in %s"
                % (job.image, label_path(job.image), label)
            )
            return


@dataclasses.dataclass(frozen=True)
class LabelOptions:
    """What classes and keypoints there are, checked; shared by the scripts that convert."""

    names: Optional[Sequence[str]] = None  # of the classes [as the data says]
    nkpt: Optional[int] = None  # keypoints of a person [as the data says]
    workers: int = 0  # processes, 0: one a core

    def __post_init__(self) -> None:
        check_limits(self, {"nkpt": (1, 1000), "workers": (0, 256)})
        if self.names and len(set(self.names)) < len(self.names):
            raise InputError("`names` %s: one name twice" % " ".join(self.names))


def main(args: argparse.Namespace) -> None:
    options = cli.config_of(LabelOptions, args)
    tally = json2yolo(
        args.json_dir,
        args.label_dir,
        args.image_dir,
        names=options.names,
        nkpt=options.nkpt or 0,
        data=args.data,
        workers=options.workers,
    )
    where = args.label_dir or "the labels folders of the images"
    tally.finish("label files in %s" % where, get_args_parser())


if __name__ == "__main__":
    cli.run(main, get_args_parser())
