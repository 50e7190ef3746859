"""The labelled images a model is trained on.

    train_set = read_train_set(read_data("data/custom_kpts.yaml"))
    train_set.count, train_set.labels[0], train_set.faults

Every label file and the head of every image are read once; what was found is kept beside the
list, and read from there as long as labels and images stay as they are.
"""

import hashlib
import os
import zipfile
from pathlib import Path
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np

from utils.dataset.data_yaml import DataYaml
from utils.dataset.images import read_image_hw
from utils.dataset.labels import Labels, empty_labels, label_path, scan_labels
from utils.errors import InputError, one_line, reason_of
from utils.files import atomic_path
from utils.pipeline import parallel_map
from utils.reading import check_file, read_bytes
from utils.words import counted

CACHE_VERSION = 3
MIN_SIDE = 8  # px; smaller images cannot be trained on
SHOWN_FAULTS = 5


class TrainSet(NamedTuple):
    """n images; what was left out is told in `faults`."""

    paths: List[str]
    sizes: np.ndarray  # (n, 2) int64 height, width px
    labels: List[Labels]
    repeats: np.ndarray  # (n,) float64, how often an image is drawn in an epoch
    faults: List[str]  # `file: reason`, one for each image or person left out
    bare: List[str] = []  # the paths that have no label file

    @property
    def count(self) -> int:  # type: ignore[override]  # of tuple
        return len(self.paths)

    @property
    def persons(self) -> int:
        return sum(labels.count for labels in self.labels)


class _Entry(NamedTuple):
    """One image as the cache keeps it."""

    hw: Tuple[int, int]  # (0, 0): the image cannot be used
    labels: Labels
    faults: List[str]

    @property
    def spoilt(self) -> bool:
        """Whether somebody is labelled on the image, and no line of it can be read."""
        return bool(self.faults) and self.labels.count == 0 and self.hw != (0, 0)


def read_train_set(data: DataYaml, *, single_class: bool = False, workers: int = 8) -> TrainSet:
    """The images of the key `train` and their labels.

    An image that is missing or broken, and a person whose line is no label, are left out and
    named in `faults`; with the last such line of a file goes the image, which shows somebody. An
    image without a label file shows nobody.

    Args:
        single_class: all classes are one.
        workers: threads that read.

    Raises InputError if there is no image left, nobody is labelled, or most label files are
    faulty, which then means another number of keypoints, or a class is beyond those of the yaml.
    """
    paths = data.images("train")
    found = [_label_text(p) for p in paths]
    texts = [text or "" for text in found]
    entries = _read_entries(data, paths, texts, workers=workers)
    faults = [fault for entry in entries for fault in entry.faults]
    spoilt = [entry for entry in entries if entry.spoilt]
    labelled = sum(bool(t) for t in texts)
    if spoilt and 2 * len(spoilt) > labelled:
        raise InputError(
            "%s: %d of %d label files cannot be used, first %s; escalator/check.py lists all"
            % (data.path, len(spoilt), labelled, spoilt[0].faults[0])
        )
    _check_classes(data, paths, entries)
    good = [i for i, entry in enumerate(entries) if entry.hw != (0, 0) and not entry.spoilt]
    if not good:
        raise InputError(
            "%s: none of %d training images can be used, first %s; escalator/check.py lists all"
            % (data.path, len(paths), faults[0])
        )
    labels = [entries[i].labels for i in good]
    if not sum(item.count for item in labels):
        raise InputError(
            "%s: nobody is labelled on %d training images; the labels of the first are expected in "
            "%s" % (data.path, len(good), label_path(paths[good[0]]))
        )
    if single_class:
        labels = [item._replace(classes=np.zeros_like(item.classes)) for item in labels]
    weight = _weights(data)
    repeats = np.array([weight.get(paths[i], 1.0) for i in good])
    return TrainSet(
        [paths[i] for i in good],
        np.array([entries[i].hw for i in good], np.int64),
        labels,
        repeats,
        faults,
        [paths[i] for i in good if found[i] is None],
    )


def _check_classes(data: DataYaml, paths: Sequence[str], entries: Sequence[_Entry]) -> None:
    """A class that the data yaml does not know is no slip of one line. Raises InputError."""
    for path, entry in zip(paths, entries):
        highest = int(entry.labels.classes.max(initial=-1))
        if highest >= data.nc:
            raise InputError(
                "%s: class %d, but %s has %s (%s), numbered from 0; correct the label or names"
                % (
                    label_path(path),
                    highest,
                    data.path,
                    counted(data.nc, "class"),
                    ", ".join(data.names[:5]),
                )
            )


def _weights(data: DataYaml) -> Dict[str, float]:
    """Repeats of the images whose list has a weight other than 1."""
    from utils.dataset.labels import list_images

    weights = {}
    for entry, weight in zip(data.splits["train"], data.train_weights or ()):
        weights.update(dict.fromkeys(list_images(entry), weight))
    return weights


def _label_text(image: str) -> Optional[str]:
    """Content of the label file of an image, None if there is none."""
    path = label_path(image)
    if not path.exists():
        return None
    return read_bytes(path, "label file").decode("utf-8", "replace")


def _read_entries(
    data: DataYaml, paths: Sequence[str], texts: Sequence[str], *, workers: int
) -> List[_Entry]:
    """All entries, from the cache if it is one of these very files."""
    key = _key(data, paths, texts)
    first = Path(data.splits["train"][0])
    cache = first.with_name("." + first.name + ".labels.npz")
    entries = _load_cache(cache, key)
    if entries is not None:
        return entries

    def read(i: int) -> _Entry:
        return _read_entry(paths[i], texts[i], data)

    from tqdm import tqdm

    jobs = tqdm(range(len(paths)), desc="labels", unit="image", leave=False, disable=None)
    entries = list(parallel_map(read, jobs, workers))
    try:
        _save_cache(cache, key, entries, nkpt=data.nkpt)
    except InputError as e:
        print("note: labels are read anew each time: %s" % e)
    return entries


def _key(data: DataYaml, paths: Sequence[str], texts: Sequence[str]) -> str:
    """Digest of all labels, and of name, size and time of all images."""
    digest = hashlib.sha256()
    digest.update(repr((CACHE_VERSION, data.nkpt, data.declared.dims)).encode())
    for path, text in zip(paths, texts):
        try:
            stat = os.stat(path)
            state = (stat.st_size, stat.st_mtime_ns)
        except OSError:
            state = (-1, -1)
        digest.update(repr((path, state, text)).encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _read_entry(path: str, text: str, data: DataYaml) -> _Entry:
    try:
        hw = read_image_hw(path)
        if min(hw) < MIN_SIDE:
            raise ValueError("%d x %d px, too small to train on" % hw)
    except (OSError, ValueError) as e:
        reason = reason_of(e)
        return _Entry((0, 0), empty_labels(data.nkpt), ["%s: %s" % (path, reason)])
    scan = scan_labels(text, data.nkpt, dims=data.declared.dims)
    found = sorted(scan.faults + scan.changes)
    faults = ["%s:%d: %s" % (label_path(path), number, reason) for number, reason in found]
    return _Entry(hw, scan.labels, faults)


def _save_cache(path: Path, key: str, entries: Sequence[_Entry], *, nkpt: int) -> None:
    labels = [e.labels for e in entries]
    with atomic_path(path, replace=True) as tmp:
        np.savez(
            str(tmp),
            key=np.array(key),
            hw=np.array([e.hw for e in entries], np.int64),
            counts=np.array([item.count for item in labels], np.int64),
            classes=np.concatenate([item.classes for item in labels]),
            boxes=np.concatenate([item.boxes for item in labels]),
            keypoints=np.concatenate(
                [item.keypoints.reshape(item.count, nkpt, 3) for item in labels]
            ),
            faults=np.array(["\n".join(e.faults) for e in entries]),
        )


def _load_cache(path: Path, key: str) -> Optional[List[_Entry]]:
    """The entries kept under `key`; None if there are none (a broken file is no cache)."""
    if not path.is_file():
        return None
    try:
        check_file(path, "label cache")
        with zipfile.ZipFile(str(path)) as archive:
            if any(member.compress_type for member in archive.infolist()):
                raise ValueError("compressed")
        with np.load(str(path), allow_pickle=False) as kept:
            if str(kept["key"]) != key:
                return None
            return list(_entries(kept))
    except Exception as e:  # whatever a damaged archive provokes: the labels are read again
        print("note: %s is not used (%s)" % (path, one_line(e, 80)))
        return None


def _entries(kept: Any) -> Iterator[_Entry]:
    ends = np.cumsum(kept["counts"])
    parts = (kept["classes"], kept["boxes"], kept["keypoints"])
    n, total = len(kept["hw"]), int(kept["counts"].sum())
    shapes = [
        kept["hw"].shape,
        kept["counts"].shape,
        kept["faults"].shape,
        *(p.shape for p in parts),
    ]
    points = parts[2].shape[1:2]
    if shapes != [(n, 2), (n,), (n,), (total,), (total, 4), (total, *points, 3)]:
        raise ValueError("arrays of shapes %s" % shapes)
    if not all(np.isfinite(p).all() for p in parts) or min(kept["counts"], default=0) < 0:
        raise ValueError("values that are no labels")
    for hw, count, end, fault in zip(kept["hw"], kept["counts"], ends, kept["faults"]):
        rows = slice(int(end - count), int(end))
        labels = Labels(*(part[rows] for part in parts))
        yield _Entry((int(hw[0]), int(hw[1])), labels, str(fault).split("\n") if fault else [])


def fault_lines(train_set: TrainSet) -> List[str]:
    """Warnings about the faults, the first few and how many there are, and about missing labels."""
    faults, bare = train_set.faults, train_set.bare
    lines = ["left out: " + fault for fault in faults[:SHOWN_FAULTS]]
    if len(faults) > SHOWN_FAULTS:
        more = len(faults) - SHOWN_FAULTS
        lines.append("and %d more; escalator/check.py lists all" % more)
    if bare:
        lines.append(
            "no label file for %s, first %s: taken as images with nobody on them"
            % (counted(len(bare), "training image"), bare[0])
        )
    return lines


def draws_by_need(train_set: TrainSet, ap: Sequence[float], classes: int) -> np.ndarray:
    """(n,) how often each image is drawn in an epoch: more often where its classes are rare or
    badly found, as often as before in total.

    Args: ap: accuracy 0..1 of each of the `classes` classes; empty: not known.
    """
    labels = train_set.labels
    seen = np.concatenate([item.classes for item in labels])
    counts = np.bincount(seen, minlength=classes)[:classes]
    need = (1 - np.clip(np.array(ap[:classes] or [0.0]), 0, 1)) ** 2
    need = np.resize(need, classes) / np.maximum(counts, 1)
    weight = np.array([need[item.classes].sum() for item in labels]) + 1e-12
    weight *= train_set.repeats
    return weight * (train_set.repeats.sum() / weight.sum())
