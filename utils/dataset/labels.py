"""Label files and image lists of a YOLO-pose dataset.

    labels = read_labels("data/custom_kpts/labels/a.txt")
    paths = list_images("data/custom_kpts/val.txt")        # a list file, or a folder
    label_path("data/custom_kpts/images/a.jpg")            # data/custom_kpts/labels/a.txt

One person a line: class, cx cy w h of the box, then K x (x y v), all divided by the image size
but class and v. v: 0 not labelled, 1 labelled but hidden, 2 visible. No line: nobody is there.
Other tools also write K x (x y), where 0 0 is not labelled, and lines of a box alone, of which no
keypoint is labelled. They may place keypoints outside the image, up to its size away: these are not
labelled here, and a box whose centre lies outside is cut at the border.
"""

import os
from pathlib import Path
from typing import Any, Dict, Iterable, List, NamedTuple, Optional, Sequence, Tuple, Union

import numpy as np

from utils.dataset.images import IMAGE_SUFFIXES
from utils.errors import InputError, warn
from utils.files import atomic_path, walk_files
from utils.pose.ground_truth import GroundTruth
from utils.pose.keypoints import AREA_OF_BOX
from utils.reading import read_text

# Label files are rounded to some digits, so a box that ends at the border may end a bit outside.
TOLERANCE = 1e-3
FAR = 1.0  # image sizes outside the image; what is farther is no slip but another unit
MAX_DEPTH = 64  # folders of a path of another computer that are tried
FIRST_LINES = 10  # of a list, which tell whether its images are where it says
MAX_CLASS = 1e6
NOT_CONVERTED = "not-converted"  # one word: no number of columns that labels have
DIGITS = 6  # of what we write: 0.004 px on a 8192 px image


class Labels(NamedTuple):
    """The n labelled persons of one image; coordinates over image size, 0..1."""

    classes: np.ndarray  # (n,) int64
    boxes: np.ndarray  # (n, 4) float64 cxcywh
    keypoints: np.ndarray  # (n, K, 3) float64 x, y, v; v is 0, 1 or 2

    @property
    def count(self) -> int:  # type: ignore[override]  # of tuple
        """Number of persons (`len()` of a NamedTuple would be its number of fields)."""
        return int(self.boxes.shape[0])


class Scan(NamedTuple):
    """A label file that may have faults."""

    labels: Labels  # the good rows
    faults: List[Tuple[int, str]]  # line number, reason: rows that are no labels
    changes: List[Tuple[int, str]]  # line number, what of a good row lies outside the image


def empty_labels(nkpt: int) -> Labels:
    """Labels of an image without persons."""
    return Labels(np.zeros(0, np.int64), np.zeros((0, 4)), np.zeros((0, nkpt, 3)))


def join_labels(items: Sequence[Labels]) -> Labels:
    """The persons of several images, one after the other; at least one item."""
    return Labels(*(np.concatenate(parts) for parts in zip(*items)))


def parse_labels(
    text: str, nkpt: Optional[int] = None, nc: Optional[int] = None, *, dims: int = 3
) -> Labels:
    """The content of a label file.

    Args:
        nkpt: keypoints a row must have; None: as many as the first row has (0 for no rows).
        nc: number of classes; None: any class index.
        dims: values of a keypoint, 3 (x y v) or 2 (x y); where `nkpt` is None the rows tell.

    Raises ValueError, `line 3: reason`, at the first row that is not a label.
    """
    scan = scan_labels(text, nkpt, nc, dims=dims)
    if scan.faults:
        raise ValueError("line %d: %s" % scan.faults[0])
    return scan.labels


def scan_labels(
    text: str, nkpt: Optional[int] = None, nc: Optional[int] = None, *, dims: int = 3
) -> Scan:
    """parse_labels for a file that may have faults."""
    text = text[1:] if text.startswith("\ufeff") else text  # Windows editors mark UTF-8 so
    lines = [(i, line.split()) for i, line in enumerate(text.splitlines(), 1) if line.strip()]
    if not lines:
        return Scan(empty_labels(nkpt or 0), [], [])
    if nkpt is None:
        try:
            nkpt, dims = count_keypoints([words for _, words in lines])
        except ValueError as e:
            return Scan(empty_labels(0), [(lines[0][0], str(e))], [])
    faults: Dict[int, str] = {}  # line number -> first reason
    numbers: List[int] = []
    rows: List[np.ndarray] = []
    for number, words in lines:
        try:
            rows.append(_row(words, nkpt, dims))
            numbers.append(number)
        except ValueError as e:
            faults[number] = str(e)
    table = np.array(rows, np.float64).reshape(-1, 5 + 3 * nkpt)
    outside = _cut_outside(table)
    good = np.ones(len(table), bool)
    for bad, reason in _faults(table, nc):
        if bad.any():
            for i in np.flatnonzero(bad & good):
                faults[numbers[i]] = reason
            good &= ~bad
    table = table[good]
    points = table[:, 5:].reshape(len(table), nkpt, 3)
    labels = Labels(table[:, 0].astype(np.int64), table[:, 1:5], points)
    changes = [(numbers[i], text) for i, text in outside if good[i]]
    return Scan(labels, sorted(faults.items()), changes)


def _cut_outside(table: np.ndarray) -> List[Tuple[int, str]]:
    """Keypoints outside the image are not labelled, boxes with their centre outside are cut; in
    place. Annotation tools let users place both beside the image. What is farther than FAR away is
    left as it is: coordinates in pixels, say.

    Returns [(row, what was changed)].
    """

    def between(values: np.ndarray, margin: float) -> np.ndarray:
        return np.all((values >= -margin) & (values <= 1 + margin), -1)

    changes: Dict[int, List[str]] = {}
    with np.errstate(invalid="ignore"):
        boxes = table[:, 1:5]
        points = table[:, 5:].reshape(len(table), (table.shape[1] - 5) // 3, 3)
        xy = points[..., :2]
        ends = [v for part in (boxes, xy) if part.size for v in (part.min(), part.max())]
        if not ends or (min(ends) >= 0 and max(ends) <= 1):  # nearly all files: be quick
            return []
        low, high = boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2
        near = between(low, FAR) & between(high, FAR) & (high > 0).all(1) & (low < 1).all(1)
        for i in np.flatnonzero(near & ~between(boxes, TOLERANCE)).tolist():
            low[i], high[i] = low[i].clip(0, 1), high[i].clip(0, 1)
            boxes[i] = [*((low[i] + high[i]) / 2), *(high[i] - low[i])]
            changes[i] = ["box cut at the border of the image"]
        gone = (points[..., 2] > 0) & between(xy, FAR) & ~between(xy, TOLERANCE)
        for i in np.flatnonzero(gone.any(1)).tolist():
            numbers = ", ".join(map(str, np.flatnonzero(gone[i]).tolist()))
            changes.setdefault(i, []).append("outside the image, not labelled: keypoint " + numbers)
        points[gone] = 0
    return [(i, "; ".join(texts)) for i, texts in sorted(changes.items())]


def count_keypoints(rows: Sequence[Sequence[str]]) -> Tuple[int, int]:
    """(keypoints, values of each: 3, 2 or 0 for boxes alone) of the words of some label rows.

    6 x n values may be 3n points x y or 2n points x y v: they are the latter if every third is a
    visibility. Raises ValueError for a number of columns that is neither.
    """
    columns = next((len(words) for words in rows if len(words) != 5), 5)
    values = columns - 5
    if values == 0:
        return 0, 0
    if values > 0 and values % 3 == 0:
        thirds = [words[7::3] for words in rows if len(words) == columns]
        if values % 2 or all(_is_visibility(w) for words in thirds for w in words):
            return values // 3, 3
    if values < 2 or values % 2:
        raise ValueError("%d columns, expected 5 + 3 x keypoints" % columns)
    return values // 2, 2


def _is_visibility(word: str) -> bool:
    return _is_number(word) and float(word) in (0, 1, 2)


def _row(words: List[str], nkpt: int, dims: int) -> np.ndarray:
    """(5 + 3K,) float64 of a row of 5 + 3K, 5 + 2K or 5 columns. Raises ValueError."""
    if words == [NOT_CONVERTED]:
        raise ValueError("the annotation of this image could not be converted; correct it")
    columns = len(words)
    if columns not in (5, 5 + dims * nkpt):
        raise ValueError(_columns_fault(columns, nkpt, dims))
    try:
        row = np.array([float(word) for word in words], np.float64)
    except ValueError:
        word = next((w for w in words if not _is_number(w)), "")
        raise ValueError("%s is not a number" % word[:40]) from None
    if columns == 5 + 3 * nkpt:
        return row
    full = np.zeros(5 + 3 * nkpt)
    full[:5] = row[:5]
    if columns > 5:
        points = row[5:].reshape(nkpt, 2)
        points = np.where((points < 0).any(1, keepdims=True), 0.0, points)  # another way to say so
        full[5:].reshape(nkpt, 3)[:, :2] = points
        full[7::3] = 2.0 * (points != 0).any(1)
    return full


def _columns_fault(columns: int, nkpt: int, dims: int) -> str:
    """What a row with a wrong number of columns looks like."""
    text = "%d columns, expected %d (class, cx cy w h, %d x (%s))" % (
        columns, 5 + dims * nkpt, nkpt, "x y" if dims == 2 else "x y v",
    )  # fmt: skip
    for count, each in ((nkpt, 5 - dims), ((columns - 5) // dims, dims)):
        if count > 0 and columns == 5 + each * count:
            return "%s; kpt_shape [%d, %d] would fit" % (text, count, each)
    if columns % 2 and columns > 6 and columns != 6 + dims * nkpt:  # class, then x y of each corner
        return text + "; is it a polygon, of an export for segmentation?"
    return text


def _faults(rows: np.ndarray, nc: Optional[int]) -> Iterable[Tuple[Any, str]]:
    """(mask of the rows, reason) of everything a label must not be; rows (n, 5 + 3K)."""
    with np.errstate(invalid="ignore"):
        yield ~np.isfinite(rows).all(1), "a value is not finite"
        classes, boxes = rows[:, 0], rows[:, 1:5]
        points = rows[:, 5:].reshape(len(rows), (rows.shape[1] - 5) // 3, 3)
        bad = (classes < 0) | (classes != np.floor(classes)) | (classes > MAX_CLASS)
        yield bad, "the class is not an index 0, 1, ..."
        if nc is not None:
            yield classes >= nc, "class beyond the %d of the dataset" % nc
        outside = (boxes < -TOLERANCE) | (boxes > 1 + TOLERANCE)
        yield outside.any(1), "box outside 0..1; coordinates are divided by the image size"
        yield (boxes[:, 2:] <= 0).any(1), "box without width or height"
        known = np.isin(points[..., 2], (0, 1, 2))
        yield ~known.all(1), "keypoint visibility is not 0, 1 or 2"
        outside = (points[..., :2] < -TOLERANCE) | (points[..., :2] > 1 + TOLERANCE)
        outside = outside.any(2) & (points[..., 2] > 0)
        yield outside.any(1), "labelled keypoint outside 0..1"


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def read_labels(
    path: Union[str, Path],
    nkpt: Optional[int] = None,
    nc: Optional[int] = None,
    *,
    dims: int = 3,
) -> Labels:
    """A label file; see parse_labels. Raises InputError `path, line 3: reason`."""
    text = read_text(path, "label file")
    try:
        return parse_labels(text, nkpt, nc, dims=dims)
    except ValueError as e:
        raise InputError("%s, %s" % (path, e)) from e


def labels_to_ground_truth(labels: Labels, image_hw: Tuple[int, int]) -> GroundTruth:
    """Labels over image size -> GroundTruth. Areas are AREA_OF_BOX of the boxes, without crowds."""
    h, w = image_hw
    boxes = labels.boxes * np.array([w, h, w, h], np.float64)
    boxes[:, :2] -= boxes[:, 2:] / 2
    keypoints = labels.keypoints * np.array([w, h, 1.0])
    areas = boxes[:, 2] * boxes[:, 3] * AREA_OF_BOX
    return GroundTruth(boxes, labels.classes, keypoints, areas, np.zeros(labels.count, bool))


def ground_truth_to_labels(ground_truth: GroundTruth, image_hw: Tuple[int, int]) -> Labels:
    """GroundTruth -> labels over image size. Areas and what is a crowd are lost."""
    h, w = image_hw
    boxes = ground_truth.boxes.copy()
    boxes[:, :2] += boxes[:, 2:] / 2
    size = np.array([w, h, w, h], np.float64)
    return Labels(
        ground_truth.classes, boxes / size, ground_truth.keypoints / np.array([w, h, 1.0])
    )


def format_labels(labels: Labels) -> str:
    """The content of a label file, a line a person."""
    lines = []
    for cls, box, points in zip(labels.classes, labels.boxes, labels.keypoints):
        words = ["%d" % cls] + ["%.*f" % (DIGITS, v) for v in box]
        for x, y, v in points:
            words += ["%.*f" % (DIGITS, x), "%.*f" % (DIGITS, y), "%d" % v]
        lines.append(" ".join(words) + "\n")
    return "".join(lines)


def write_labels(path: Union[str, Path], labels: Labels) -> None:
    """Write a label file whole."""
    with atomic_path(path) as tmp:
        tmp.write_text(format_labels(labels), encoding="utf-8")


def label_path(image: Union[str, Path]) -> Path:
    """The last `images` folder of the path becomes `labels`, the suffix `.txt`.

    Without such a folder the label lies beside the image.
    """
    path = Path(image)
    parts = list(path.parts)
    folders = [i for i, part in enumerate(parts[:-1]) if part == "images"]
    if folders:
        parts[folders[-1]] = "labels"
    return Path(*parts).with_suffix(".txt")


def list_images(path: Union[str, Path]) -> List[str]:
    """Image paths of a list file or a folder (with its subfolders, sorted).

    Lines of a list file may be relative to it; blank lines and duplicates of a line do not count.
    Whether the images exist is not checked. Where the first ones do not, but do without the first
    folders of their lines (data/images/train/a.jpg of CVAT), all are taken without, and a warning
    says so.

    Raises InputError for what is neither, and for one without images.
    """
    path = Path(path)
    if path.is_dir():
        images = [f for f in walk_files(path) if Path(f).suffix.lower() in IMAGE_SUFFIXES]
        if not images:
            raise InputError(
                "%s: no images in this folder (%s)" % (path, ", ".join(sorted(IMAGE_SUFFIXES)))
            )
        return images
    if not path.is_file():
        raise InputError("%s: no such list file or folder of images" % path)
    folder = str(path.parent)
    names = _names_here(path, read_list(path))
    return list(dict.fromkeys(os.path.normpath(os.path.join(folder, name)) for name in names))


def _names_here(path: Path, names: List[str]) -> List[str]:
    """The lines of a list that was written elsewhere, as they are right here; else unchanged."""
    folder = str(path.parent)  # os.path: names too long to exist are an error of Path.exists()
    if any(os.path.exists(os.path.join(folder, name)) for name in names[:FIRST_LINES]):
        return names
    for name in names[:FIRST_LINES]:
        here = found_here(name, [path.parent])
        if here is None:
            continue
        start = name[: len(name) - len(here)]
        how = "without %s, as %s" % (start, here) if start else "as %s" % here
        warn("%s: no %s there; lines are read %s" % (path, name, how))
        return [n[len(start) :].replace("\\", "/") if n.startswith(start) else n for n in names]
    return names


def found_here(entry: str, folders: Sequence[Path]) -> Optional[str]:
    """The longest end of a path of another computer that leads somewhere below one of the folders.

    At least two names of it, or a file: `train` of /home/x/train could be any folder.
    """
    parts = entry.replace("\\", "/").split("/")
    for first in range(max(len(parts) - MAX_DEPTH, 0), len(parts)):
        end = "/".join(parts[first:])
        if not parts[first] or parts[first] in (".", "..") or end == entry:
            continue
        for folder in folders:
            path = os.path.join(str(folder), end)
            if os.path.isfile(path) or (os.path.isdir(path) and first < len(parts) - 1):
                return end
    return None


def read_list(path: Union[str, Path]) -> List[str]:
    """The lines of a list file, blank ones left out. Raises InputError for one without any."""
    text = read_text(path, "list")
    # not splitlines(): a file name may hold what Unicode calls a line separator
    names = [line.strip(" \t") for line in text.split("\n")]
    names = [name for name in names if name]
    if not names:
        raise InputError("%s: an empty list" % path)
    if "\0" in text:
        raise InputError("%s: a NUL in it, expected a text file with an image path a line" % path)
    return names


def write_not_converted(path: Union[str, Path]) -> None:
    """Write a label file that nobody can read, of an image whose annotation nobody could read.

    Without a label file, or with an empty one, training takes an image as one with nobody on it.
    """
    with atomic_path(path) as tmp:
        tmp.write_text(NOT_CONVERTED + "\n", encoding="utf-8")
