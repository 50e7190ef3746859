"""The yaml file that describes a dataset: where train, val and test lie, and what is on them.

    data = read_data("data/coco_kpts.yaml")
    data.images("val")            # paths
    data.annotations("val")       # COCO JSON, None if the yaml names none

Keys: train, val, test (a list file, a folder, or a list of these), nc, names; optional are
train-annotations, val-annotations, test-annotations (COCO JSON), nkpt [17], sigmas (K numbers,
for the OKS of keypoints that are not COCO's) and train-weights (how often the images of each entry
of train are drawn in an epoch, such as [10, 1]). Relative paths are looked for beside the yaml
file, then in the working directory.
"""

import warnings
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional, Tuple, Union

from utils.dataset.labels import list_images
from utils.errors import InputError, InputWarning, one_line
from utils.pose.keypoints import COCO_NAMES

TASKS = ("train", "val", "test")
KEYS = {*TASKS, *(t + "-annotations" for t in TASKS)}
KEYS |= {"nc", "names", "nkpt", "sigmas", "train-weights"}


class DataYaml(NamedTuple):
    """A checked data yaml."""

    path: str
    names: List[str]
    nkpt: int
    sigmas: Optional[Tuple[float, ...]]  # None: COCO's, see keypoints.oks_sigmas
    splits: Dict[str, List[str]]  # task -> list files and folders; as in the yaml if not found
    jsons: Dict[str, str]  # task -> COCO JSON; as in the yaml if not found
    train_weights: Tuple[float, ...] = ()  # of each entry of train; empty: all 1

    @property
    def nc(self) -> int:
        return len(self.names)

    def images(self, task: str) -> List[str]:
        """Image paths of `train`, `val` or `test`.

        Raises InputError if the yaml has none, or a list file or folder is not there.
        """
        if task not in self.splits:
            raise InputError(
                "%s: no key %s; it has %s" % (self.path, task, ", ".join(self.splits) or "no split")
            )
        found = [self._existing(task, entry) for entry in self.splits[task]]
        return list(dict.fromkeys(image for entry in found for image in list_images(entry)))

    def annotations(self, task: str) -> Optional[str]:
        """Path of the COCO JSON of a task. Raises InputError if the yaml names one not there."""
        if task not in self.jsons:
            return None
        return self._existing(task + "-annotations", self.jsons[task])

    def _existing(self, key: str, entry: str) -> str:
        if not Path(entry).exists():
            raise InputError(
                "%s: %s: %s is neither beside the yaml file nor in the working directory"
                % (self.path, key, entry)
            )
        return entry


def read_data(path: Union[str, Path]) -> DataYaml:
    """Read and check a data yaml.

    Raises InputError that names the file and the key. What a key points to may be missing: a
    dataset without a test split can still train. `images` and `annotations` say so when asked.
    """
    import yaml

    path = Path(path)
    if not path.is_file():
        raise InputError("`data` %s: no such file" % path)
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as e:
        raise InputError("`data` %s: not YAML (%s)" % (path, one_line(e))) from e
    if not isinstance(content, dict):
        raise InputError("`data` %s: expected keys train, val, nc, names" % path)
    unknown = [str(k) for k in content if k not in KEYS]
    if unknown:
        warnings.warn(
            "%s: keys that mean nothing here: %s" % (path, ", ".join(unknown)),
            InputWarning,
            stacklevel=2,
        )
    names = _names(path, content)
    nkpt = content.get("nkpt", len(COCO_NAMES))
    if type(nkpt) is not int or not 1 <= nkpt <= 1000:
        raise InputError("%s: nkpt %s, expected the number of keypoints" % (path, nkpt))
    splits = {}
    for task in TASKS:
        entries = content.get(task)
        if entries is None or entries == "":
            continue
        entries = entries if isinstance(entries, list) else [entries]
        splits[task] = [_find(path, task, entry) for entry in entries]
    jsons = {
        task: _find(path, task + "-annotations", content[task + "-annotations"])
        for task in TASKS
        if content.get(task + "-annotations")
    }
    weights = _train_weights(path, content, len(splits.get("train", [])))
    return DataYaml(str(path), names, nkpt, _sigmas(path, content, nkpt), splits, jsons, weights)


def _names(path: Path, content: Dict[str, Any]) -> List[str]:
    names = content.get("names")
    if isinstance(names, dict) and sorted(names) == list(range(len(names))):
        names = [names[i] for i in range(len(names))]
    if not isinstance(names, list) or not names or not all(isinstance(n, str) for n in names):
        raise InputError("%s: names: expected a list of class names, such as ['person']" % path)
    nc = content.get("nc", len(names))
    if nc != len(names):
        raise InputError("%s: nc is %s, but there are %d names" % (path, nc, len(names)))
    return list(names)


def _sigmas(path: Path, content: Dict[str, Any], nkpt: int) -> Optional[Tuple[float, ...]]:
    sigmas = content.get("sigmas")
    if sigmas is None:
        return None
    numbers = isinstance(sigmas, list) and all(isinstance(s, (int, float)) for s in sigmas)
    if not numbers or len(sigmas) != nkpt or min(sigmas) <= 0:
        raise InputError("%s: sigmas: expected %d positive numbers" % (path, nkpt))
    return tuple(float(s) for s in sigmas)


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


def _find(yaml_path: Path, key: str, entry: Any) -> str:
    """A path of the yaml, beside the yaml or in the working directory; as it is if in neither."""
    if not isinstance(entry, str):
        raise InputError("%s: %s: expected a path, got %s" % (yaml_path, key, str(entry)[:60]))
    candidates = (yaml_path.parent / entry, Path(entry))
    return next((str(c) for c in candidates if c.exists()), entry)
