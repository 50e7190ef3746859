"""COCO JSON: annotations in, results out.

coco = read_coco("person_keypoints_val2017.json", ["person"], nkpt=17)
coco.truths[139]                                  # Truth of image 139
rows = result_rows(poses)                         # predictions as a results file holds them

Format: cocodataset.org/#format-data and #format-results.
"""

import json
import math
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple, Union

import numpy as np

from utils.errors import InputError
from utils.keypoints import AREA_OF_BOX
from utils.poses import Poses, xyxy_to_xywh
from utils.truth import Truth, empty_truth

PX_DIGITS, SCORE_DIGITS = 3, 6  # decimals of a results file


class CocoImage(NamedTuple):
    """An entry of `images`."""

    file_name: str
    hw: Tuple[int, int]  # (height, width) px


class CocoData(NamedTuple):
    """A checked COCO JSON."""

    path: str
    images: Dict[int, CocoImage]  # by id
    truths: Dict[int, Truth]  # by image id, of every image; the order of the file
    category_ids: List[int]  # category id of each class index


def read_coco(path: Union[str, Path], names: Optional[Sequence[str]], nkpt: int) -> CocoData:
    """Read a COCO JSON with boxes and keypoints.

    Args:
        names: class names; each must be a category of the file, or there are as many of both.
            None: the categories of the file, in the order of their ids.
        nkpt: keypoints of a person; an annotation without any counts as none labelled.

    Annotations of other categories are left out.

    Raises InputError that names the file and the entry.
    """
    content = load_json(path)
    if not isinstance(content, dict) or not isinstance(content.get("images"), list):
        raise InputError("%s: not a COCO JSON (expected keys images, annotations)" % path)
    if not isinstance(content.get("annotations"), list):
        raise InputError("%s: no annotations; a file of results or of test images?" % path)
    try:
        images = dict(_images(content["images"]))
        category_ids = _category_ids(content.get("categories") or [], names)
        by_image: Dict[int, List[Dict[str, Any]]] = {key: [] for key in images}
        for i, entry in enumerate(content["annotations"]):
            annotation = _annotation(entry, i, images, nkpt)
            if annotation["category_id"] in category_ids:
                by_image[annotation["image_id"]].append(annotation)
    except ValueError as e:
        raise InputError("%s: %s" % (path, e)) from e
    truths = {k: _truth(found, category_ids, nkpt) for k, found in by_image.items()}
    return CocoData(str(path), images, truths, category_ids)


def load_json(path: Union[str, Path]) -> Any:
    """Content of a JSON file. Raises InputError if there is none."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8-sig"))
    except OSError as e:
        raise InputError("%s: %s" % (path, e.strerror)) from e
    except (ValueError, RecursionError) as e:  # not UTF-8, or not JSON
        raise InputError("%s: not JSON (%s)" % (path, " ".join(str(e).split())[:120])) from e


def _images(entries: List[Any]):
    """(id, CocoImage) of each image entry."""
    seen = set()
    for i, entry in enumerate(entries):
        where = "images[%d]" % i
        if not isinstance(entry, dict) or type(entry.get("id")) is not int:
            raise ValueError("%s: expected an id that is an integer" % where)
        if entry["id"] in seen:
            raise ValueError("%s: id %d is there twice" % (where, entry["id"]))
        seen.add(entry["id"])
        name, h, w = entry.get("file_name"), entry.get("height"), entry.get("width")
        if not isinstance(name, str) or not name:
            raise ValueError("%s: no file_name" % where)
        if not all(type(v) is int and v > 0 for v in (h, w)):
            raise ValueError("%s (%s): height and width must be positive integers" % (where, name))
        yield entry["id"], CocoImage(name, (h, w))


def _category_ids(entries: List[Any], names: Optional[Sequence[str]]) -> List[int]:
    """Category id of each class."""
    known = {}
    for entry in entries:
        if not isinstance(entry, dict) or type(entry.get("id")) is not int:
            raise ValueError("categories: expected entries with id and name")
        known[entry["id"]] = str(entry.get("name"))
    if not known:
        raise ValueError("categories: none")
    if names is None:
        return sorted(known)
    by_name = {name: key for key, name in known.items()}
    if all(name in by_name for name in names):
        return [by_name[name] for name in names]
    if len(known) == len(names):
        return sorted(known)
    raise ValueError(
        "categories %s do not match the classes %s"
        % (", ".join(list(known.values())[:5]), ", ".join(names[:5]))
    )


def _annotation(entry: Any, index: int, images: Dict[int, CocoImage], nkpt: int) -> Dict[str, Any]:
    """A checked annotation: image_id, category_id, bbox, keypoints (3K), area, iscrowd."""
    where = "annotations[%d]" % index
    if not isinstance(entry, dict):
        raise ValueError("%s: expected an object" % where)
    if entry.get("image_id") not in images:
        raise ValueError("%s: image_id %s is no image" % (where, entry.get("image_id")))
    where += " of %s" % images[entry["image_id"]].file_name
    box = entry.get("bbox")
    if not _numbers(box) or len(box) != 4 or min(box[2:]) < 0:  # type: ignore
        raise ValueError("%s: bbox must be 4 finite numbers x y width height" % where)
    points = entry.get("keypoints") or [0] * (3 * nkpt)
    if not _numbers(points):
        raise ValueError("%s: a keypoint is not a finite number" % where)
    if len(points) != 3 * nkpt:
        raise ValueError("%s: %d keypoint numbers, expected 3 x %d" % (where, len(points), nkpt))
    if not all(v in (0, 1, 2) for v in points[2::3]):
        raise ValueError("%s: keypoint visibility is not 0, 1 or 2" % where)
    area = entry.get("area", box[2] * box[3] * AREA_OF_BOX)  # type: ignore
    if not _numbers([area]) or area < 0:
        raise ValueError("%s: area must be a number" % where)
    return {
        "image_id": entry["image_id"],
        "category_id": entry.get("category_id"),
        "bbox": box,
        "keypoints": points,
        "area": area,
        "iscrowd": bool(entry.get("iscrowd", 0)),
    }


def _numbers(values: Any) -> bool:
    """A list of finite numbers."""
    return isinstance(values, list) and all(
        type(v) in (int, float) and math.isfinite(v) for v in values
    )


def _truth(annotations: List[Dict[str, Any]], category_ids: List[int], nkpt: int) -> Truth:
    if not annotations:
        return empty_truth(nkpt)
    return Truth(
        np.array([a["bbox"] for a in annotations], np.float64),
        np.array([category_ids.index(a["category_id"]) for a in annotations], np.int64),
        np.array([a["keypoints"] for a in annotations], np.float64).reshape(-1, nkpt, 3),
        np.array([a["area"] for a in annotations], np.float64),
        np.array([a["iscrowd"] for a in annotations], bool),
    )


class Rows(NamedTuple):
    """Predictions of one image as a results file holds them: rounded, in float64.

    Figures are computed from these, so that whoever evaluates the file finds the same.
    """

    boxes: np.ndarray  # (n, 4) float64 x y width height px
    scores: np.ndarray  # (n,) float64, descending
    classes: np.ndarray  # (n,) int64
    keypoints: np.ndarray  # (n, K, 3) float64 x px, y px, confidence

    @property
    def count(self) -> int:
        """Number of predictions (`len()` of a NamedTuple would be its number of fields)."""
        return int(self.boxes.shape[0])


def result_rows(poses: Poses) -> Rows:
    """Poses -> Rows."""
    return Rows(
        np.round(xyxy_to_xywh(poses.boxes).astype(np.float64), PX_DIGITS),
        np.round(poses.scores.astype(np.float64), SCORE_DIGITS),
        poses.classes,
        np.round(poses.keypoints.astype(np.float64), PX_DIGITS),
    )


def result_json(rows: Rows, image_id: int, category_ids: Sequence[int]) -> List[Dict[str, Any]]:
    """Rows of one image -> entries of a COCO results file, boxes and keypoints in one.

    The third value of a keypoint is its confidence.
    """
    return [
        {
            "image_id": image_id,
            "category_id": category_ids[cls],
            "bbox": box,
            "score": score,
            "keypoints": points,
        }
        for box, score, cls, points in zip(
            rows.boxes.tolist(),
            rows.scores.tolist(),
            rows.classes.tolist(),
            rows.keypoints.reshape(rows.count, 3 * rows.keypoints.shape[1]).tolist(),
        )
    ]


def coco_api_figures(
    annotations: Union[str, Path, Dict[str, Any]],
    results: List[Dict[str, Any]],
    image_ids: Sequence[int],
    kind: str,
    sigmas: Sequence[float],
) -> Optional[List[float]]:
    """pycocotools' own figures: ten for kind `keypoints`, twelve for `bbox`.

    Args: annotations: a COCO JSON file or its content. results: see result_json. None if
    pycocotools is not installed.
    """
    import contextlib
    import io

    try:
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval
    except ImportError:
        return None
    with contextlib.redirect_stdout(io.StringIO()):  # it prints as it goes
        truth = COCO() if isinstance(annotations, dict) else COCO(str(annotations))
        if isinstance(annotations, dict):
            truth.dataset = annotations
            truth.createIndex()
        if not results:  # loadRes fails on an empty list
            found = COCO()
            found.dataset = {**truth.dataset, "annotations": []}
            found.createIndex()
        else:
            found = truth.loadRes(results)
        evaluation = COCOeval(truth, found, kind)
        evaluation.params.imgIds = sorted(image_ids)
        evaluation.params.kpt_oks_sigmas = np.asarray(sigmas, np.float64)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return [float(v) for v in evaluation.stats]
