"""Annotations -> one COCO keypoints JSON, as pycocotools and test_multi_backend.py read it.

    python escalator/json2coco.py --json_dir data/custom_kpts/val.txt \\
        --save_file data/custom_kpts/annotations-trainval/person_keypoints_val.json
    python escalator/json2coco.py --json_dir data/custom_kpts/annotations --save_file all.json

--json_dir is a list file of images (the JSON of images/a.jpg is annotations/a.json), or whatever
json2yolo.py takes: a folder of JSON files, one an image, in our format or labelme's, or a COCO
JSON of another tool. What is done to persons on the way, and what happens to those that cannot be
converted, is told by `python escalator/json2yolo.py --help`.

One entry an image, also where nobody is; none where no person of it could be converted. Image ids
are the numbers the files are named by, if every one is a number of its own, else 1, 2, ... in the
order of the names; annotation ids 1, 2, ...
An area is kept if the annotations have one, else it is 0.53 of the box, about what it is in COCO.
"""

import argparse
import os
import sys
from pathlib import Path
from typing import List, Optional, Sequence

if not __package__:
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from escalator.jobs import NO_JSON, Loaded, coco_among, common_folder, find_jobs, load
from escalator.json2yolo import LabelOptions
from escalator.survey import survey
from escalator.tally import Tally, usable
from utils import cli
from utils.dataset.coco import CocoImage, image_ids, write_coco
from utils.errors import InputError
from utils.files import check_output
from utils.parallel import parallel_map
from utils.pose.keypoints import Skeleton


def get_args_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "json2coco.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--json_dir", "--json-dir", required=True,
        help="list file of images, folder of JSON files, or a COCO JSON")  # fmt: skip
    add("--save_file", "--save-file", required=True, help="the COCO JSON to write")
    add("--image_dir", "--image-dir", default="",
        help="folder of the images [images beside --json_dir, else --json_dir itself]")  # fmt: skip
    add("--names", nargs="+", metavar="NAME",
        help="class names; the first becomes category 1 [as annotated, else person]")  # fmt: skip
    add("--nkpt", type=int, help="keypoints of a person [as the annotations say]")
    add("--data", default="", help="data yaml that declares classes and keypoints "
        "[the annotations tell]")  # fmt: skip
    add("--workers", type=int, default=0, help="processes [0: one a core]")
    cli.add_overwrite(parser)
    return parser


def json2coco(
    json_dir: str,
    save_file: str,
    image_dir: str = "",
    *,
    names: Optional[Sequence[str]] = None,
    nkpt: int = 0,
    data: str = "",
    workers: int = 0,
) -> Tally:
    """Convert; see the text above. Raises InputError, and writes nothing, if no image is left."""
    tally = Tally()
    check_output(save_file)
    points = survey(json_dir, names, nkpt, data=data)
    print("\n".join(points.lines), end="\n" if points.lines else "")
    skel = points.skeleton
    found = find_jobs(json_dir, image_dir, points.names, skel=skel)
    tally.faults = list(found.faults)
    loaded = list(parallel_map(load, found.jobs, "json2coco", workers=workers))
    coco_files = [item.job.json or "" for item in loaded if item.is_coco]
    if coco_files:
        more = coco_among(found, coco_files, json_dir, image_dir=image_dir, skel=skel)
        tally.faults += more.faults
        loaded += parallel_map(load, more.jobs, "json2coco", workers=workers)
    else:
        tally.notes[NO_JSON] = found.bare
    done = []
    for item in loaded:
        tally.faults += item.faults
        if item.hw is not None and usable(item.ground_truth, item.faults):
            tally.add(item.ground_truth.count, item.notes)
            done.append(item)
    if not done:
        if tally.faults:
            tally.finish("images converted", get_args_parser())
        raise InputError("`json_dir` %s: no image in it" % json_dir)
    _write(save_file, done, points.names, skel=skel)
    return tally


def _write(path: str, done: List[Loaded], names: Sequence[str], *, skel: Skeleton) -> None:
    done = sorted(done, key=lambda item: item.job.key)
    paths = [item.job.image or item.job.key + ".jpg" for item in done]
    ids = image_ids(paths)
    images = {}
    for key, item, name in zip(ids, done, file_names([item.job.image for item in done])):
        assert item.hw is not None
        # without its image a COCO entry keeps the name it has
        images[key] = CocoImage(name or item.job.name.rsplit(": ", 1)[-1], item.hw)
    ground_truths = {key: item.ground_truth for key, item in zip(ids, done)}
    write_coco(path, images, ground_truths, names=names, skel=skel)


def file_names(paths: Sequence) -> List[str]:
    """Each path below the folder that they share, with slashes; empty for None."""
    known = [p for p in paths if p is not None]
    folder = common_folder(known) if known else ""
    return ["" if p is None else os.path.relpath(p, folder).replace(os.sep, "/") for p in paths]


def main(args: argparse.Namespace) -> None:
    options = cli.config_of(LabelOptions, args)
    if not args.save_file.lower().endswith(".json"):
        raise InputError("`save_file` %s: expected the name of a .json file" % args.save_file)
    tally = json2coco(
        args.json_dir,
        args.save_file,
        args.image_dir,
        names=options.names,
        nkpt=options.nkpt or 0,
        data=args.data,
        workers=options.workers,
    )
    tally.finish("images in %s" % args.save_file, get_args_parser())


if __name__ == "__main__":
    cli.run(main, get_args_parser())
