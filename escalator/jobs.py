"""Jobs of a conversion: which image an annotation belongs to, and the persons on it.

    found = find_jobs("data/custom_kpts/annotations", "", ["person"], skel=COCO)
    loaded = load(found.jobs[0])                      # loaded.ground_truth in px

Annotations are a folder of JSON files (ours or labelme's, one an image), a COCO JSON, a folder
with COCO JSONs in it, or a list file of images.
"""

import os
import unicodedata
from collections import Counter, defaultdict
from pathlib import Path, PurePosixPath
from typing import Collection, Dict, Iterable, List, NamedTuple, Optional, Sequence, Tuple

from utils.dataset.annotation_files import path_below, read_annotation, read_annotations
from utils.dataset.annotations import Annotation, Fault, IsCoco, fit
from utils.dataset.coco import is_coco
from utils.dataset.images import IMAGE_SUFFIXES, read_image_hw
from utils.dataset.labels import list_images
from utils.errors import InputError, one_line, reason_of
from utils.files import walk_files
from utils.pose.ground_truth import GroundTruth, empty_ground_truth
from utils.pose.keypoints import COCO, Skeleton
from utils.pose.letterbox import HW
from utils.reading import read_json

NO_IMAGE = "images missing, sizes taken from the JSON"
RESIZED = "images of another size than the JSON says, annotations scaled"
NO_JSON = "images without a JSON, left out"
SAME_SHAPE = 0.01  # two sizes are of one shape up to this difference of their aspect ratios


class Job(NamedTuple):
    """One image to convert."""

    name: str  # what messages call it
    key: str  # path below the folder of images, without suffix; names the label file
    image: Optional[str]  # path, None: not found
    json: Optional[str]  # file with its annotation; None: it is in `annotation`
    annotation: Optional[Annotation]
    names: Tuple[str, ...]
    skel: Skeleton


class Found(NamedTuple):
    """What is to be converted."""

    jobs: List[Job]
    faults: List[Fault]  # what cannot be converted
    bare: int = 0  # images without a JSON, if each has one of its own


class Loaded(NamedTuple):
    """A Job done: persons in pixels of an image of (height, width) px, None if that failed."""

    job: Job
    ground_truth: GroundTruth
    hw: Optional[HW]
    faults: List[Fault]
    notes: Dict[str, int]
    is_coco: bool = False  # the file has many images; see coco_jobs


class ImageFolder:
    """The images of a folder, found by any name an annotation file gives them."""

    def __init__(self, folder: str):
        self.folder = folder
        self._by_key: Dict[str, List[str]] = defaultdict(list)
        self._by_stem: Dict[str, List[str]] = defaultdict(list)
        for path in walk_files(folder):
            stem, suffix = os.path.splitext(os.path.basename(path))
            if suffix.lower() in IMAGE_SUFFIXES:
                self._by_key[_normal(self.key(path))].append(path)
                self._by_stem[_normal(stem)].append(path)

    def key(self, path: str) -> str:
        """Path below the folder, with slashes, without suffix; spelled as on the disk."""
        return _key(path, self.folder)

    def exact(self, key: str) -> List[str]:
        """The images of this very key."""
        return self._by_key.get(_normal(key), [])

    def find(
        self, key: str, name: str = "", taken: Collection[str] = (), *, beside: str = ""
    ) -> Optional[str]:
        """The image of this key, or the only one of this stem; with `name` only one named so.

        Args: taken: images that are another key's own. beside: a file, whose folder goes first.

        Raises ValueError if there are several.
        """
        paths = self.exact(key)
        if not paths:
            stem = _normal(PurePosixPath(key).name)
            paths = [p for p in self._by_stem.get(stem, []) if p not in taken]
        if name:
            paths = _named(paths, name)
        if len(paths) > 1 and beside:
            paths = [p for p in paths if os.path.dirname(p) == os.path.dirname(beside)] or paths
        if len(paths) > 1:
            raise ValueError("several images of one name: %s" % ", ".join(sorted(paths)[:3]))
        return paths[0] if paths else None

    def left_out(self, jobs: Iterable[Job]) -> int:
        """How many images none of the jobs is about."""
        return len(set(self._by_key) - {_normal(job.key) for job in jobs})


def _normal(text: str) -> str:
    """One spelling of letters that Unicode can spell in two; macOS writes the other one."""
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def _key(path: str, folder: str) -> str:
    """Path below a folder, with slashes, without suffix."""
    return os.path.splitext(os.path.relpath(path, folder))[0].replace(os.sep, "/")


def _named(paths: List[str], name: str) -> List[str]:
    """Those of this file name, or else of this one but for capitals in the suffix.

    All for a name without a suffix.
    """
    suffix = os.path.splitext(name)[1].lower()
    if not suffix:
        return paths
    exact = [p for p in paths if _normal(os.path.basename(p)) == _normal(name)]
    return exact or [p for p in paths if os.path.splitext(p)[1].lower() == suffix]


def find_jobs(source: str, image_dir: str, names: Sequence[str], *, skel: Skeleton) -> Found:
    """Images to convert, and messages about those that cannot be.

    Args:
        source: a JSON file, a folder of them, or a list file of images.
        image_dir: folder of the images; empty: see default_image_dir.
        names: class names. skel: what the keypoints are.

    Raises InputError if there is nothing to convert.
    """
    path = Path(source)
    if image_dir and not os.path.isdir(image_dir):
        raise InputError("`image_dir` %s: no such folder" % image_dir)
    if path.is_dir():
        files = _json_files(source)
        if not files:
            raise InputError("`json_dir` %s: no .json files in this folder" % source)
        images = ImageFolder(image_dir or default_image_dir(path))
        jobs, faults = _file_jobs(files, source, images, names=names, skel=skel)
        return Found(jobs, faults, images.left_out(jobs))
    if not path.is_file():
        raise InputError("`json_dir` %s: no such file or folder" % source)
    if path.suffix.lower() == ".json":
        images = ImageFolder(image_dir or default_image_dir(path.parent))
        if is_coco(read_json(path, "COCO JSON")):
            return Found(*coco_jobs([source], images, names, skel=skel))
        return Found(*_file_jobs([source], str(path.parent), images, names=names, skel=skel))
    return _list_jobs(source, names, skel)


def json_files_of(source: str) -> List[str]:
    """The JSON files that find_jobs would read."""
    path = Path(source)
    if path.is_dir():
        return _json_files(source)
    if path.suffix.lower() == ".json" or not path.is_file():
        return [source] if path.is_file() else []
    return list(dict.fromkeys(job.json for job in _list_jobs(source, [], COCO).jobs if job.json))


def coco_among(
    found: Found, files: Sequence[str], source: str, *, image_dir: str, skel: Skeleton
) -> Found:
    """Images of those JSON files of `found` that turned out to be COCO's.

    An image that also has a JSON of its own is left out: which of both is right, who knows.
    """
    own = {_normal(job.key): job for job in found.jobs if job.json not in files}
    images = ImageFolder(image_dir or default_image_dir(Path(source)))
    jobs, faults = coco_jobs(files, images, found.jobs[0].names, skel=skel)
    alone = []
    for job in jobs:
        other = own.get(_normal(job.key))
        if other is None:
            alone.append(job)
        else:
            faults.append(Fault(job.name, "left out, %s is of this image, too" % other.name))
    return Found(alone, faults)


def _json_files(folder: str) -> List[str]:
    return [path for path in walk_files(folder) if path.lower().endswith(".json")]


def default_image_dir(json_folder: Path) -> str:
    """`images` beside the folder of annotations or in it, else the folder itself."""
    beside = os.path.join(os.path.dirname(os.path.abspath(str(json_folder))), "images")
    if os.path.isdir(beside):
        below = os.path.relpath(beside)
        return beside if below.startswith(os.pardir) else below
    inside = json_folder / "images"
    return str(inside if inside.is_dir() else json_folder)


def _file_jobs(
    files: Iterable[str], folder: str, images: ImageFolder, *, names: Sequence[str], skel: Skeleton
) -> Tuple[List[Job], List[Fault]]:
    """A job for each JSON file of one image."""
    jobs, faults = [], []
    keys = {file: _key(file, folder) for file in files}
    taken = {path for key in keys.values() for path in images.exact(key)}
    for file, key in keys.items():
        try:
            image = images.find(key, taken=taken)
        except ValueError as e:
            faults.append(Fault(file, str(e)))
            continue
        key = images.key(image) if image else key
        jobs.append(Job(file, key, image, file, None, tuple(names), skel))
    return _apart(jobs, faults)


def _list_jobs(path: str, names: Sequence[str], skel: Skeleton) -> Found:
    """A job for each image of a list file that has a JSON.

    The JSON is in `annotations` in place of `images`; if not at the same place there, then the one
    that the folder of annotations as a whole would give this image.
    """
    paths = list_images(path)
    roots = {image: _images_folder(image) for image in paths}
    folders = set(roots.values())
    folder = folders.pop() if len(folders) == 1 else ""
    folder = folder or common_folder(paths)
    elsewhere: Dict[str, Dict[str, str]] = {}  # folder of images -> its images -> their JSONs
    jobs, bare = [], 0
    for image in paths:
        root = roots[image]
        json = os.path.splitext(image)[0] + ".json"
        if root:
            annotations = os.path.join(os.path.dirname(root), "annotations")
            json = os.path.join(annotations, os.path.relpath(json, root))
            if not os.path.isfile(json):
                if root not in elsewhere:
                    elsewhere[root] = _json_of_images(annotations, root, names, skel=skel)
                json = elsewhere[root].get(image, json)
        if os.path.isfile(json):
            jobs.append(Job(image, _key(image, folder), image, json, None, tuple(names), skel))
        else:
            bare += 1
    if not jobs:
        raise InputError("`json_dir` %s: no image has a JSON, such as %s" % (path, json))
    return Found(*_apart(jobs, []), bare)


def _images_folder(image: str) -> str:
    """The path up to the last folder `images`, empty if there is none; see labels.label_path."""
    parts = Path(image).parts[:-1]
    places = [i for i, part in enumerate(parts) if part == "images"]
    return str(Path(*parts[: places[-1] + 1])) if places else ""


def _json_of_images(
    annotations: str, folder: str, names: Sequence[str], *, skel: Skeleton
) -> Dict[str, str]:
    """Image -> JSON file, for two folders."""
    jobs, _ = _file_jobs(
        _json_files(annotations), annotations, ImageFolder(folder), names=names, skel=skel
    )
    return {os.path.normpath(job.image): job.json for job in jobs if job.image and job.json}


def common_folder(paths: Sequence[str]) -> str:
    """The deepest folder that all files are in."""
    return os.path.commonpath([os.path.dirname(os.path.abspath(p)) for p in paths])


def coco_jobs(
    files: Iterable[str], images: ImageFolder, names: Sequence[str], *, skel: Skeleton
) -> Tuple[List[Job], List[Fault]]:
    """A job for each image of COCO JSONs."""
    jobs: List[Job] = []
    faults: List[Fault] = []
    entries: List[Tuple[str, str, str, Annotation]] = []  # in messages, path below images, JSON
    for file in files:
        try:
            annotations, inside = read_annotations(file, names, skel)
        except InputError as e:
            faults.append(Fault("", str(e)))
            continue
        faults += inside
        for annotation in annotations:
            file_name = annotation.image or ""
            name = "%s: %s" % (file, file_name)
            below = path_below(file_name)
            if not below:
                faults.append(Fault(name, "file_name is not the name of a file"))
                continue
            entries.append((name, below, file, annotation))
    stems = [os.path.splitext(below)[0] for _, below, _, _ in entries]
    taken = {path for stem in stems for path in images.exact(stem)}
    for stem, (name, below, file, annotation) in zip(stems, entries):
        try:
            image = images.find(stem, PurePosixPath(below).name, taken, beside=file)
        except ValueError as e:
            faults.append(Fault(name, str(e)))
            continue
        stem = images.key(image) if image else stem
        jobs.append(Job(name, stem, image, None, annotation, tuple(names), skel))
    return _apart(jobs, faults)


def _apart(jobs: List[Job], faults: List[Fault]) -> Tuple[List[Job], List[Fault]]:
    """Jobs whose label files would be one become one of an image of which nobody is known."""
    groups: Dict[str, List[Job]] = defaultdict(list)
    for job in jobs:
        groups[job.key].append(job)
    alone = []
    for key, (first, *others) in groups.items():
        reason = "shares its labels %s.txt with %s; neither was converted" % (key, first.name)
        if not others:
            alone.append(first)
        elif others[0].image is None:
            faults.append(Fault(others[0].name, reason))
        else:
            unknown = Annotation(
                empty_ground_truth(first.skel.count), [], faults=[Fault("", reason)]
            )
            alone.append(others[0]._replace(json=None, annotation=unknown))
        faults += [Fault(job.name, reason) for job in others[1:]]
    return alone, faults


def load(job: Job) -> Loaded:
    """Read annotation and image size; persons in pixels of the image, fitted to it."""
    failed = Loaded(job, empty_ground_truth(job.skel.count), None, [], {})
    annotation = job.annotation
    if annotation is None:
        assert job.json is not None
        try:
            annotation = read_annotation(job.json, job.names, job.skel)
        except IsCoco:
            return failed._replace(is_coco=True)
        except InputError as e:
            return failed._replace(faults=[Fault("", str(e))])
    notes = Counter(annotation.notes)
    try:
        hw = _size(job, annotation)
    except ValueError as e:
        inside = [fault.within(job.name) for fault in annotation.faults]
        return failed._replace(faults=[Fault(job.name, str(e)), *inside])
    if job.image is None:
        notes[NO_IMAGE] += 1
    elif annotation.hw is not None and hw != annotation.hw:
        notes[RESIZED] += 1
        annotation = annotation._replace(
            ground_truth=_scaled(annotation.ground_truth, annotation.hw, hw)
        )
    fitted = fit(annotation._replace(notes=notes), hw)
    faults = [fault.within(job.name) for fault in fitted.faults]
    return Loaded(job._replace(annotation=None), fitted.ground_truth, hw, faults, fitted.notes)


def _size(job: Job, annotation: Annotation) -> HW:
    """(height, width) of the image; ValueError if it is unknown or contradicts the JSON."""
    told = annotation.hw
    if job.image is None:
        if told is None:
            raise ValueError("no image %s.* in the folder of images (`image_dir`)" % job.key)
        return told
    try:
        hw = read_image_hw(job.image)
    except (ValueError, OSError) as e:
        reason = reason_of(e) if e.args else one_line(e)
        raise ValueError("image %s: %s" % (job.image, reason)) from e
    if told is not None and abs(hw[0] * told[1] / (hw[1] * told[0]) - 1) > SAME_SHAPE:
        raise ValueError(
            "image %s is %d x %d px (width x height), the JSON says %d x %d%s"
            % ((job.image, hw[1], hw[0], told[1], told[0])
               + ("; turned by its EXIF orientation?" if hw == told[::-1] else "",))
        )  # fmt: skip
    return hw


def _scaled(ground_truth: GroundTruth, old: HW, new: HW) -> GroundTruth:
    x, y = new[1] / old[1], new[0] / old[0]
    return ground_truth._replace(
        boxes=ground_truth.boxes * [x, y, x, y],
        keypoints=ground_truth.keypoints * [x, y, 1.0],
        areas=ground_truth.areas * x * y,
    )
