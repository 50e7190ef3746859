"""Annotation files: which format a JSON has; a new one also in escalator/survey.py."""

import os
from pathlib import Path, PurePosixPath
from typing import Dict, List, Sequence, Tuple, Union

from utils.dataset.annotations import Annotation, Fault, IsCoco, parse_persons
from utils.dataset.coco import EntryFault, is_coco, read_coco
from utils.dataset.labelme import is_labelme, parse_labelme
from utils.errors import InputError
from utils.pose.ground_truth import empty_ground_truth
from utils.pose.keypoints import Skeleton
from utils.reading import read_json


def read_annotation(path: Union[str, Path], names: Sequence[str], skel: Skeleton) -> Annotation:
    """A JSON of one image: a list of persons, or labelme's.

    Args: names: class names. skel: what the keypoints are.

    Raises InputError `path: reason` if it is neither, IsCoco for a COCO JSON.
    """
    content = read_json(path, "annotation")
    if is_coco(content):
        raise IsCoco(str(path))
    try:
        if is_labelme(content):
            return parse_labelme(content, names, skel)
        return parse_persons(content, len(names), skel.count)
    except ValueError as e:
        raise InputError("%s: %s" % (path, e)) from e


def read_annotations(
    path: Union[str, Path], names: Sequence[str], skel: Skeleton
) -> Tuple[List[Annotation], List[Fault]]:
    """A COCO JSON: the annotation of each image, and the faults that are of none of them.

    A fault of an image is among its own: where all its persons have one, nobody knows who is on it.
    The same holds for images whose entry cannot be read, or that share an id.

    Raises InputError `path: reason` for a file that is no COCO JSON of these keypoints.
    """
    inside: List[EntryFault] = []
    coco = read_coco(path, names, skel.count, wanted=skel, faults=inside)
    nobody = empty_ground_truth(skel.count)
    ground_truths = dict(coco.ground_truths)
    file_names = {image.file_name for image in coco.images.values()}
    faults: List[Fault] = []
    of_images: Dict[int, List[Fault]] = {key: [] for key in coco.images}
    unknown: Dict[str, List[Fault]] = {}  # file name of an image -> why nothing is known of it
    for place, reason, image_id, file_name in inside:
        fault = Fault(place, reason)
        if file_name and file_name not in file_names:
            unknown.setdefault(file_name, []).append(fault)
            if image_id is not None:  # whose persons are these?
                ground_truths[image_id] = nobody
                of_images[image_id].append(fault)
        elif image_id is not None:
            of_images[image_id].append(fault)
        else:
            faults.append(Fault(str(path), "%s: %s" % fault[:2]))
    found = []
    for key, image in coco.images.items():
        known = ground_truths[key]
        persons = ["person %d" % (i + 1) for i in range(known.count)]
        found.append(Annotation(known, persons, image.file_name, image.hw, of_images[key]))
    found += [Annotation(nobody, [], name, None, told) for name, told in unknown.items()]
    return found, faults


def path_below(file_name: str) -> str:
    """A file name of a JSON as a path that stays below a folder; empty if it names no file."""
    path = PurePosixPath(file_name.replace("\\", "/"))
    if not path.parts or path.name == ".." or "\0" in file_name:
        return ""
    try:
        os.fsencode(file_name)
    except UnicodeEncodeError:  # half a character
        return ""
    if path.is_absolute() or ":" in path.parts[0]:
        return path.name
    return "/".join(part for part in path.parts if part != "..")
