"""Annotation files: which format a JSON has; a new one also in escalator/survey.py."""

from pathlib import Path
from typing import Dict, List, Sequence, Tuple, Union

from utils.dataset.annotations import Annotation, Fault, IsCoco, parse_persons
from utils.dataset.coco import EntryFault, is_coco, read_coco
from utils.dataset.labelme import is_labelme, parse_labelme
from utils.errors import InputError
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

    Raises InputError `path: reason` for a file that is no COCO JSON of these keypoints.
    """
    inside: List[EntryFault] = []
    coco = read_coco(path, names, skel.count, wanted=skel, faults=inside)
    faults: List[Fault] = []
    of_images: Dict[int, List[Fault]] = {key: [] for key in coco.images}
    for place, reason, image_id in inside:
        if image_id is None:
            faults.append(Fault(str(path), "%s: %s" % (place, reason)))
        else:
            of_images[image_id].append(Fault(place, reason))
    found = []
    for key, image in coco.images.items():
        known = coco.ground_truths[key]
        persons = ["person %d" % (i + 1) for i in range(known.count)]
        found.append(Annotation(known, persons, image.file_name, image.hw, of_images[key]))
    return found, faults
