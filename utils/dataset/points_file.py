"""The file keypoints.yaml in a folder of labels: what the numbers in the labels mean.

write_points("data/hands/labels", ["hand"], skeleton)
path = find_points("data/hands/images/a.jpg")         # data/hands/labels/keypoints.yaml, or None
read_points(path)                                     # names and the keys of utils/pose/skeleton.py

json2yolo.py writes it where the annotations name their keypoints. A data yaml whose keys do not say
what the keypoints are takes it from there, and so do visual.py and yolo2coco.py.
"""

from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Union

from utils.dataset.labels import label_path, list_images
from utils.errors import InputError
from utils.files import atomic_path
from utils.pose.keypoints import Skeleton
from utils.pose.skeleton import skeleton_keys
from utils.reading import read_yaml

NAME = "keypoints.yaml"
HEAD = "# What the labels in this folder hold. Written by escalator/json2yolo.py.\n"


def write_points(folder: Union[str, Path], names: Sequence[str], skel: Skeleton) -> Path:
    """Write the file of a folder of labels; its path."""
    import yaml

    path = Path(folder) / NAME
    content = {"names": list(names), **skeleton_keys(skel)}
    text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True, default_flow_style=None)
    with atomic_path(path) as tmp:
        tmp.write_text(HEAD + text, encoding="utf-8")
    return path


def labels_folder(image: Union[str, Path]) -> Path:
    """The folder `labels` that holds the labels of an image, or the folder of its label."""
    folder = label_path(image).parent
    above = [p for p in (folder, *folder.parents) if p.name == "labels"]
    return above[0] if above else folder


def find_points(entry: Union[str, Path]) -> Optional[Path]:
    """The file of an image, a folder of images or a list file; None if there is none."""
    entry = Path(entry)
    if entry.is_dir():
        image = entry / "x.jpg"
    elif entry.suffix == ".txt" and entry.is_file():
        image = Path(list_images(entry)[0])
    else:
        image = entry
    path = labels_folder(image) / NAME
    return path if path.is_file() else None


def read_points(path: Path) -> Dict[str, Any]:
    """The content of a file. Raises InputError."""
    content = read_yaml(path)
    names: Optional[List[str]] = content.get("names") if isinstance(content, dict) else None
    if not isinstance(names, list):
        raise InputError("%s: expected keys names, kpt_names; delete it or convert again" % path)
    return content
