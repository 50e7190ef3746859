"""COCO JSON: annotations in and out. Results: coco_results.py.

coco = read_coco("person_keypoints_val2017.json", ["person"], nkpt=17)
coco.ground_truths[139]                           # GroundTruth of image 139
write_coco("val.json", coco.images, coco.ground_truths, ["person"])

Format: cocodataset.org/#format-data.
"""

import json
import math
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Set, Tuple, Union

import numpy as np

from utils.dataset import category_keypoints
from utils.errors import InputError
from utils.files import atomic_path, check_utf8
from utils.pose.ground_truth import GroundTruth, empty_ground_truth
from utils.pose.keypoints import AREA_OF_BOX, COCO, Skeleton
from utils.reading import is_integer, is_number, read_json, shown

MAX_ID, MAX_SIDE, MAX_VALUE = 2**53, 10**6, 1e9  # ids, px of an image, coordinates and areas
MAX_DIGITS = 20  # of an id
PX_DIGITS = 3  # decimals of what is written


class CocoImage(NamedTuple):
    """An entry of `images`."""

    file_name: str
    hw: Tuple[int, int]  # (height, width) px


class EntryFault(NamedTuple):
    """An entry that cannot be read."""

    place: str  # `annotations[3]`
    reason: str
    image_id: Optional[int] = None  # the image that it is of, None: none that is known
    file_name: str = ""  # of an entry of `images`; with an image_id this is of another image, too


class CocoData(NamedTuple):
    """A checked COCO JSON."""

    path: str
    images: Dict[int, CocoImage]  # by id
    ground_truths: Dict[int, GroundTruth]  # by image id, of every image; the order of the file
    category_ids: List[int]  # category id of each class index
    names: List[str]  # of the classes
    skeleton: Skeleton  # what the keypoints are


def _read_content(path: Union[str, Path]) -> Dict[str, Any]:
    """The content of a file that has images and annotations. Raises InputError."""
    content = read_json(path, "COCO JSON")
    if not is_coco(content):
        raise InputError("%s: not a COCO JSON (expected keys images, annotations)" % path)
    if not isinstance(content.get("annotations"), list):
        raise InputError("%s: no annotations; a file of results or of test images?" % path)
    return content


def read_coco(
    path: Union[str, Path],
    names: Optional[Sequence[str]],
    nkpt: Optional[int],
    *,
    wanted: Optional[Skeleton] = None,
    faults: Optional[List[EntryFault]] = None,
) -> CocoData:
    """Read a COCO JSON with boxes and keypoints.

    Args:
        names: class names; each must be a category of the file, or there are as many of both, or
            as many categories with keypoints. None: the categories of the file with
            keypoints, or all if none has any, in the order of their ids.
        nkpt: keypoints of a person, None: as many as the categories have; an annotation without
            any counts as none labelled.
        wanted: what the keypoints are to be; None: what the file says.
        faults: None: every box must be there, the first fault raises. A list: the faults of
            single entries are appended to it and the entries left out; a missing box or area is
            NaN, for annotations.fit() to fill.

    Annotations of other categories are left out. Where a category has the names of `wanted`, or
    without it those of COCO or of the first category, in another order, they are put in that order.

    Raises InputError that names the file and the entry, and where the keypoints of categories
    differ in more than their order.
    """
    content = _read_content(path)
    strict = faults is None
    found_faults: List[EntryFault] = [] if faults is None else faults
    try:
        images = dict(_images(content["images"], found_faults))
        categories = content.get("categories") or []
        category_ids = _category_ids(categories, names)
        declared = {entry["id"] for entry in categories}
        chosen = [entry for entry in categories if entry["id"] in category_ids]
        layout = category_keypoints.read(chosen, content["annotations"], nkpt, wanted=wanted)
    except ValueError as e:
        raise InputError("%s: %s" % (path, e)) from e
    by_image: Dict[int, List[Dict[str, Any]]] = {key: [] for key in images}
    for i, entry in enumerate(content["annotations"]):
        category = _category_of(entry, declared)
        if category is not None and category not in category_ids:
            continue
        own = None if category is None else layout.count_of(category)
        try:
            annotation = _annotation(entry, images, nkpt=own, strict=strict)
        except ValueError as e:
            found_faults.append(EntryFault("annotations[%d]" % i, str(e), _image_of(entry, images)))
            continue
        annotation["keypoints"] = layout.ordered(annotation)
        by_image[annotation["image_id"]].append(annotation)
    if strict and found_faults:
        raise InputError("%s: %s" % (path, _told(found_faults[0], images)))
    count = layout.skeleton.count
    ground_truths = {k: _ground_truth(found, category_ids, count) for k, found in by_image.items()}
    found_names = {entry["id"]: str(entry.get("name")) for entry in chosen}
    known = list(names) if names is not None else [found_names[i] for i in category_ids]
    return CocoData(str(path), images, ground_truths, category_ids, known, layout.skeleton)


def api_content(
    path: Union[str, Path], category_ids: Sequence[int], wanted: Skeleton
) -> Dict[str, Any]:
    """A COCO JSON that read_coco accepts, with all that pycocotools wants of its annotations.

    What a file may lack is filled in as read_coco does it. num_keypoints stays as the file has it.
    """
    content = read_json(path, "COCO JSON")
    images = dict(_images(content["images"], []))
    chosen = [entry for entry in content["categories"] if entry["id"] in category_ids]
    layout = category_keypoints.read(chosen, content["annotations"], wanted.count, wanted=wanted)
    annotations: List[Dict[str, Any]] = []
    for entry in content["annotations"]:
        if entry.get("category_id") not in category_ids:
            continue
        own = layout.count_of(entry["category_id"])
        annotation = _annotation(entry, images, nkpt=own, strict=True)
        annotation["keypoints"] = layout.ordered(annotation)
        labelled = sum(v > 0 for v in annotation["keypoints"][2::3])
        number = entry.get("num_keypoints")
        annotation["num_keypoints"] = number if type(number) is int else labelled
        annotation["iscrowd"] = int(annotation["iscrowd"])
        annotation["id"] = len(annotations) + 1  # pycocotools takes id 0 for nobody
        annotations.append(annotation)
    return {**content, "annotations": annotations}


def is_coco(content: object) -> bool:
    """Whether the content of a JSON file is meant as COCO's."""
    return isinstance(content, dict) and isinstance(content.get("images"), list)


def _images(entries: List[Any], faults: List[EntryFault]):
    """(id, CocoImage) of each image entry; what is wrong with the others goes to `faults`."""
    seen: Dict[int, str] = {}  # file names
    for i, entry in enumerate(entries):
        name = entry.get("file_name") if isinstance(entry, dict) else None
        twice = None
        try:
            key, image = _image(entry)
            if key in seen:
                twice = None if name == seen[key] else key
                raise ValueError("id %d is there twice" % key)
        except ValueError as e:
            name = name if isinstance(name, str) else ""
            faults.append(EntryFault("images[%d]" % i, str(e), twice, name))
            continue
        seen[key] = image.file_name
        yield key, image


def _image(entry: Any) -> Tuple[int, CocoImage]:
    if not isinstance(entry, dict) or not is_integer(entry.get("id"), -MAX_ID, MAX_ID):
        raise ValueError("expected an id that is an integer")
    name, h, w = entry.get("file_name"), entry.get("height"), entry.get("width")
    if not isinstance(name, str) or not name:
        raise ValueError("no file_name")
    if not (is_integer(h, 1, MAX_SIDE) and is_integer(w, 1, MAX_SIDE)):
        raise ValueError("(%s) height and width must be positive integers" % name)
    return entry["id"], CocoImage(name, (int(h or 0), int(w or 0)))


def _category_ids(entries: Any, names: Optional[Sequence[str]]) -> List[int]:
    """Category id of each class."""
    if not isinstance(entries, list):
        raise ValueError("categories: expected a list, got %s" % shown(entries))
    known = {}
    for entry in entries:
        if not isinstance(entry, dict) or not is_integer(entry.get("id"), -MAX_ID, MAX_ID):
            raise ValueError("categories: expected entries with id and name")
        if not isinstance(entry.get("name"), (str, int)):
            raise ValueError("categories: %d has no name" % entry["id"])
        known[entry["id"]] = shown(entry["name"])
    if not known:
        raise ValueError("categories: none")
    if names is None:
        return sorted(e["id"] for e in entries if e.get("keypoints")) or sorted(known)
    by_name = {name: key for key, name in known.items()}
    if all(name in by_name for name in names):
        return [by_name[name] for name in names]
    # some tools add a category above the others, without keypoints
    with_points = [entry["id"] for entry in entries if entry.get("keypoints")]
    for ids in (known, with_points):
        if len(ids) == len(names):
            return sorted(ids)
    raise ValueError(
        "categories %s do not match the classes %s"
        % (", ".join(list(known.values())[:5]), ", ".join(names[:5]))
    )


def _category_of(entry: Any, declared: Set[int]) -> Optional[int]:
    """Category id of an annotation, None if it has none that the file declares."""
    key = entry.get("category_id") if isinstance(entry, dict) else None
    return key if type(key) is int and key in declared else None


def _image_of(entry: Any, images: Dict[int, CocoImage]) -> Optional[int]:
    """Id of the image of an annotation, also where it is written as "7" or 7.0; None: of none."""
    value = entry.get("image_id") if isinstance(entry, dict) else None
    if isinstance(value, str) and value.isdecimal() and len(value) < MAX_DIGITS:
        value = int(value)
    return int(value) if isinstance(value, (int, float)) and value in images else None


def _told(fault: EntryFault, images: Dict[int, CocoImage]) -> str:
    """A fault in the words of a message about the file."""
    known = fault.image_id is not None and not fault.file_name
    of = " of %s" % images[fault.image_id].file_name if known else ""  # type: ignore[index]
    return "%s%s: %s" % (fault.place, of, fault.reason)


def _annotation(
    entry: Any, images: Dict[int, CocoImage], *, nkpt: Optional[int], strict: bool
) -> Dict[str, Any]:
    """A checked annotation: image_id, category_id, bbox, keypoints (3K), area, iscrowd.

    Args: nkpt: keypoints of its category; None: its category is none.

    Raises ValueError (reason only).
    """
    if not isinstance(entry, dict):
        raise ValueError("expected an object")
    image = _image_of(entry, images)
    if image is None:
        raise ValueError("image_id %s is no image" % shown(entry.get("image_id")))
    if type(entry["image_id"]) is not int:
        raise ValueError("image_id %s must be an integer" % json.dumps(entry["image_id"]))
    box, area, category = entry.get("bbox"), entry.get("area"), entry.get("category_id")
    if nkpt is None:
        raise ValueError("category_id %s is no category" % shown(category))
    if not box and not strict:
        box = [math.nan] * 4
    elif not _numbers(box) or len(box) != 4 or min(box[2:]) < 0:  # type: ignore
        raise ValueError("bbox must be 4 finite numbers x y width height")
    points = entry.get("keypoints") or [0] * (3 * nkpt)
    if not _numbers(points):
        raise ValueError("a keypoint is not a finite number")
    if len(points) != 3 * nkpt:
        raise ValueError("%d keypoint numbers, expected 3 x %d" % (len(points), nkpt))
    if not all(v in (0, 1, 2) for v in points[2::3]):
        raise ValueError("keypoint visibility is not 0, 1 or 2")
    if entry.get("iscrowd") not in (None, 0, 1):
        raise ValueError("iscrowd %s is not 0 or 1" % json.dumps(entry["iscrowd"])[:40])
    if area is None:
        area = box[2] * box[3] * AREA_OF_BOX if strict else math.nan  # type: ignore
    elif not _numbers([area]) or area < 0:
        raise ValueError("area must be a number")
    return {
        "image_id": image,
        "category_id": category,
        "bbox": box,
        "keypoints": points,
        "area": area,
        "iscrowd": bool(entry.get("iscrowd")),
    }


def _numbers(values: Any) -> bool:
    """A list of finite numbers."""
    return isinstance(values, list) and all(is_number(v, -MAX_VALUE, MAX_VALUE) for v in values)


def _ground_truth(
    annotations: List[Dict[str, Any]], category_ids: List[int], nkpt: int
) -> GroundTruth:
    if not annotations:
        return empty_ground_truth(nkpt)
    return GroundTruth(
        np.array([a["bbox"] for a in annotations], np.float64),
        np.array([category_ids.index(a["category_id"]) for a in annotations], np.int64),
        np.array([a["keypoints"] for a in annotations], np.float64).reshape(-1, nkpt, 3),
        np.array([a["area"] for a in annotations], np.float64),
        np.array([a["iscrowd"] for a in annotations], bool),
    )


def write_coco(
    path: Union[str, Path],
    images: Dict[int, CocoImage],
    ground_truths: Dict[int, GroundTruth],
    *,
    names: Sequence[str],
    skel: Skeleton = COCO,
) -> None:
    """Write a COCO JSON: one entry an image, annotations numbered from 1, class c category c + 1.

    Args:
        images, ground_truths: by image id; each image has an entry, an empty one if it shows no
            person.
        skel: what the keypoints are; each category carries it.

    Raises InputError for a file name that is not UTF-8.
    """
    for image in images.values():
        check_utf8(image.file_name)
    annotations: List[Dict[str, Any]] = []
    for key in images:
        ground_truth = ground_truths[key]
        for i in range(ground_truth.count):
            points = np.round(ground_truth.keypoints[i], PX_DIGITS)
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": key,
                    "category_id": int(ground_truth.classes[i]) + 1,
                    "iscrowd": int(ground_truth.crowd[i]),
                    "bbox": np.round(ground_truth.boxes[i], PX_DIGITS).tolist(),
                    "area": round(float(ground_truth.areas[i]), PX_DIGITS),
                    "num_keypoints": int((points[:, 2] > 0).sum()),
                    "keypoints": [v for x, y, s in points.tolist() for v in (x, y, int(s))],
                }
            )
    content = {
        "images": [
            {"id": key, "file_name": image.file_name, "height": image.hw[0], "width": image.hw[1]}
            for key, image in images.items()
        ],
        "annotations": annotations,
        "categories": category_keypoints.entries(names, range(1, len(names) + 1), skel),
    }
    with atomic_path(path) as tmp, open(str(tmp), "w", encoding="utf-8") as file:
        json.dump(content, file, ensure_ascii=False)


def image_ids(paths: Sequence[str]) -> List[int]:
    """The numbers the files are named by (COCO: 000000000139.jpg), or 1, 2, ..."""
    stems = [Path(p).stem for p in paths]
    numbers = [int(s) for s in stems if s.isdecimal()]
    if len(numbers) == len(stems) and len(set(numbers)) == len(stems):
        return numbers
    return list(range(1, len(stems) + 1))
