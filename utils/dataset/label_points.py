"""What label files hold where nobody says it: `label_points(images)`."""

from typing import Any, Dict, List, Optional, Sequence, Tuple

from utils.dataset.data_yaml import read_data
from utils.dataset.labels import count_keypoints, label_path
from utils.dataset.points_file import find_points, read_points
from utils.errors import InputError
from utils.pose.skeleton import Declared, read_skeleton
from utils.reading import read_text

PERSON = ["person"]


def label_points(
    images: Sequence[str],
    names: Optional[Sequence[str]] = None,
    nkpt: int = 0,
    *,
    data: str = "",
) -> Tuple[List[str], Declared]:
    """(class names, keypoints) of the labels of some images.

    Args:
        names: class names, None: as found. nkpt: keypoints, 0: as found.
        data: a data yaml that declares them; empty: keypoints.yaml beside the labels, else the
            number of columns of the first label tells how many there are.

    Raises InputError for what contradicts.
    """
    if data:
        declared = read_data(data)
        return list(names or declared.names), declared.declared
    path = find_points(images[0])
    content: Dict[str, Any] = {} if path is None else read_points(path)
    known = content.pop("names", None) or PERSON
    if path is None and not nkpt:
        counted, dims = _count(images)
        content = {"kpt_shape": [counted, dims]} if counted else {}
    if nkpt:
        content["nkpt"] = nkpt
    try:
        return list(names or known), read_skeleton(content)
    except ValueError as e:
        raise InputError("%s: %s" % (path or "`nkpt` %d" % nkpt, e)) from e


def _count(images: Sequence[str]) -> Tuple[int, int]:
    """(keypoints, values of each) of the first label with keypoints; (0, 3) if there is none."""
    for image in images:
        try:
            text = read_text(label_path(image), "label file")
            count, dims = count_keypoints(
                [line.split() for line in text.splitlines() if line.strip()]
            )
        except (InputError, ValueError):  # told where the label is used
            continue
        if count:
            return count, dims
    return 0, 3
