"""The yaml file that describes a dataset: where train, val and test lie, and what is on them.

    data = read_data("data/coco_kpts.yaml")
    data.images("val")            # paths
    data.annotations("val")       # COCO JSON, None if the yaml names none
    data.skeleton                 # what the keypoints are

Keys: train, val, test (a list file, a folder, or a list of these), names (a list, or a mapping of
0, 1, ... to them) and nc; path (the folder the others are relative to); kpt_shape, kpt_names,
flip_idx, skeleton, kpt_sigmas, kpt_colors (the keypoints, utils/pose/skeleton.py); and of this
toolkit alone train-annotations, val-annotations, test-annotations (COCO JSON), nkpt, sigmas and
train-weights (how often the images of each entry of train are drawn in an epoch, such as [10, 1]).

Relative paths are looked for below `path`, beside the yaml file and in the working directory. Some
tools write ../train/images beside a folder train: where that leads nowhere, train/images counts.
Of a path of another computer, such as /content/hands-2/train/images, the end that is there counts,
and a warning says so. `valid`, `validation` and other cases of the letters are the same tasks.
"""

import os
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional, Tuple, Union

from utils.dataset.labels import found_here, list_images
from utils.dataset.points_file import find_points, read_points
from utils.errors import InputError, warn
from utils.pose import skeleton
from utils.pose.keypoints import Skeleton
from utils.reading import read_yaml

TASKS = ("train", "val", "test")
ALIASES = {"valid": "val", "validation": "val"}  # as other tools call a task
KEYS = {*TASKS, *(t + "-annotations" for t in TASKS), *skeleton.KEYS}
KEYS |= {"path", "nc", "names", "train-weights"}
# What other tools note about a dataset, and nobody here needs
PASSED_OVER = {"roboflow", "download", "license", "author", "description", "version", "date",
               "channels"}  # fmt: skip
COCO_YAML = "coco_kpts.yaml"  # ours, of what no split.py makes


class DataYaml(NamedTuple):
    """A checked data yaml."""

    path: str
    names: List[str]
    declared: skeleton.Declared  # the keypoints
    splits: Dict[str, List[str]]  # task -> list files and folders; as in the yaml if not found
    jsons: Dict[str, str]  # task -> COCO JSON; as in the yaml if not found
    train_weights: Tuple[float, ...] = ()  # of each entry of train; empty: all 1
    root: str = ""  # the key path

    @property
    def nc(self) -> int:
        return len(self.names)

    @property
    def skeleton(self) -> Skeleton:
        """What the keypoints are."""
        return self.declared.skeleton

    @property
    def nkpt(self) -> int:
        return self.skeleton.count

    def images(self, task: str) -> List[str]:
        """Image paths of `train`, `val` or `test`.

        Raises InputError if the yaml has none, or a list file or folder is not there.
        """
        if task not in self.splits:
            text = "%s: no key %s; it has %s" % (
                self.path,
                task,
                ", ".join(self.splits) or "no split",
            )
            if self.splits:
                text += "; escalator/split.py divides a folder of images"
            raise InputError(text)
        found = [self._existing(task, entry) for entry in self.splits[task]]
        return list(dict.fromkeys(image for entry in found for image in list_images(entry)))

    def annotations(self, task: str) -> Optional[str]:
        """Path of the COCO JSON of a task. Raises InputError if the yaml names one not there."""
        if task not in self.jsons:
            return None
        return self._existing(task + "-annotations", self.jsons[task])

    def _existing(self, key: str, entry: str) -> str:
        if not os.path.exists(entry):
            below = "below path %s nor " % self.root if self.root else ""
            advice = "correct the path, make it (escalator/json2coco.py), or drop the key"
            if key in TASKS:
                advice = "correct the path, or make the list (escalator/split.py)"
            if os.path.basename(self.path) == COCO_YAML:
                advice = "data/scripts/prepare_coco.sh downloads COCO and makes it"
            raise InputError(
                "%s: %s: %s is neither %sbeside the yaml file nor in the working directory; %s"
                % (self.path, key, entry, below, advice)
            )
        return entry


def read_data(path: Union[str, Path]) -> DataYaml:
    """Read and check a data yaml.

    Raises InputError that names the file and the key. What a key points to may be missing: a
    dataset without a test split can still train. `images` and `annotations` say so when asked.
    """
    path = Path(path)
    if path.is_dir():
        raise InputError("`data` %s: is a folder, expected a data yaml" % path)
    if not path.is_file():
        raise InputError("`data` %s: no such file" % path)
    content = read_yaml(path, "`data` %s" % path)
    if not isinstance(content, dict):
        raise InputError(
            "`data` %s: expected a data yaml with the keys train, val and names" % path
        )
    content = _usual_tasks(content)
    unknown = [str(k) for k in content if k not in KEYS and k not in PASSED_OVER]
    if unknown:
        warn("%s: keys that mean nothing here: %s" % (path, ", ".join(unknown)))
    try:
        names = _names(content)
    except ValueError as e:
        raise InputError("%s: %s" % (path, e)) from e
    folders = _folders(path, content)
    splits = {}
    for task in TASKS:
        entries = content.get(task)
        if entries is None or entries == "":
            continue
        entries = entries if isinstance(entries, list) else [entries]
        splits[task] = [_find(path, task, entry, folders=folders) for entry in entries]
    jsons = {
        task: _find(path, task + "-annotations", content[task + "-annotations"], folders=folders)
        for task in TASKS
        if content.get(task + "-annotations")
    }
    weights = _train_weights(path, content, len(splits.get("train", [])))
    declared = _declared(path, content, splits)
    root = str(content.get("path") or "")
    return DataYaml(str(path), names, declared, splits, jsons, weights, root)


def _declared(
    path: Path, content: Dict[str, Any], splits: Dict[str, List[str]]
) -> skeleton.Declared:
    """The keypoints: the yaml says it, and for what it leaves open keypoints.yaml of the labels."""
    keys = {key: content[key] for key in skeleton.KEYS if content.get(key) is not None}
    entries = [entry for task in splits.values() for entry in task if Path(entry).exists()]
    side = find_points(entries[0]) if entries and "kpt_names" not in keys else None
    known = {} if side is None else read_points(side)
    try:
        return skeleton.read_skeleton({**known, **keys})
    except ValueError as e:
        both = path if side is None else "%s and %s" % (path, side)
        raise InputError("%s: %s" % (both, e)) from e


def assumptions(data: DataYaml, skel: Optional[Skeleton] = None) -> List[str]:
    """Lines that tell what is taken for granted about the keypoints, because no key says it.

    Args: skel: what they are taken for, None: what the yaml says.
    """
    lines = []
    skel, told = skel or data.skeleton, data.declared.told
    if skel.is_coco and not data.declared.names_told and "person" not in map(str.lower, data.names):
        lines.append(
            "%s: the 17 keypoints of %s are taken as COCO's (nose, left_eye, ...); if they are "
            "others, name them: kpt_names" % (data.path, ", ".join(data.names[:3]))
        )
    if skel.flip_index is None:
        lines.append(
            "%s: no flip_idx, so images are not mirrored; it holds the keypoint that each one "
            "is in a mirror, its own number where there is no left and right" % data.path
        )
    elif not skel.is_coco and "flip_idx" not in told:
        lines.append("%s: left/right pairs are taken from the names of the keypoints" % data.path)
    return lines


def _usual_tasks(content: Dict[Any, Any]) -> Dict[Any, Any]:
    """Keys such as valid or Train, as we call them, unless both are there."""
    found = {}
    for key, value in content.items():
        task = ALIASES.get(str(key).lower(), str(key).lower())
        found[task if task in TASKS and task not in content else key] = value
    return found


def _names(content: Dict[str, Any]) -> List[str]:
    names = content.get("names")
    if isinstance(names, dict) and names:
        names = skeleton.numbered_list(names, "names")
    if not isinstance(names, list) or not names or not all(type(n) in (str, int) for n in names):
        raise ValueError("names: expected a list of class names, such as ['person']")
    names = [str(name) for name in names]
    if len(set(names)) < len(names):
        twice = next(n for i, n in enumerate(names) if n in names[:i])
        raise ValueError("names: %s is there twice" % twice)
    nc = content.get("nc", len(names))
    if nc != len(names):
        raise ValueError("nc is %s, but there are %d names" % (nc, len(names)))
    return names


def _train_weights(path: Path, content: Dict[str, Any], entries: int) -> Tuple[float, ...]:
    weights = content.get("train-weights")
    if weights is None:
        return ()
    numbers = isinstance(weights, list) and all(type(w) in (int, float) for w in weights)
    if not numbers or len(weights) != entries or min(weights) <= 0 or max(weights) > 1000:
        raise InputError(
            "%s: train-weights: expected %d numbers above 0, one for each entry of train"
            % (path, entries)
        )
    return tuple(float(w) for w in weights)


def _folders(yaml_path: Path, content: Dict[str, Any]) -> List[Path]:
    """Where relative paths of the yaml may start, the likeliest first."""
    own = [yaml_path.parent, Path()]
    root = content.get("path")
    if root is None or root == "":
        return own
    if not isinstance(root, str):
        raise InputError("%s: path: expected a folder, got %s" % (yaml_path, str(root)[:60]))
    root = Path(root).expanduser()
    return [folder / root for folder in own if (folder / root).is_dir()] + own


def _find(yaml_path: Path, key: str, entry: Any, *, folders: List[Path]) -> str:
    """A path of the yaml, below one of the folders; as it is if below none."""
    if not isinstance(entry, str):
        raise InputError("%s: %s: expected a path, got %s" % (yaml_path, key, str(entry)[:60]))
    plain = entry.replace("\\", "/")  # Windows
    spellings = [entry, plain] if plain != entry else [entry]
    if plain.startswith("../"):
        spellings.append(plain[len("../") :])
    candidates = (folder / spelling for spelling in spellings for folder in folders)
    found = next((str(c) for c in candidates if os.path.exists(str(c))), None)
    if found is not None:
        return found
    here = found_here(entry, folders)
    if here is None:
        return entry
    path = next(folder / here for folder in folders if os.path.exists(str(folder / here)))
    warn("%s: %s: no %s on this computer; %s is taken" % (yaml_path, key, entry, path))
    return str(path)
