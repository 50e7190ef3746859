"""Annotation files of one image: which format a JSON has; a new one also in escalator/survey.py."""

from pathlib import Path
from typing import Sequence, Union

from utils.dataset.annotations import Annotation, IsCoco, parse_persons
from utils.dataset.coco import is_coco
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
