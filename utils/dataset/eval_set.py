"""The images a model is tested on, and the ground truth about them.

    eval_set = read_eval_set(read_data("data/coco_kpts.yaml"), "val")
    ground_truth = eval_set.ground_truth(0, image_hw)

The ground truth is the COCO JSON if the data yaml names one for the task, else the label files.
"""

import os
from functools import partial
from pathlib import Path
from typing import Dict, List, NamedTuple, Optional, Sequence, Tuple, Union

from utils.dataset.coco import CocoImage, image_ids, read_coco
from utils.dataset.data_yaml import DataYaml
from utils.dataset.images import check_decodable, read_image_hw
from utils.dataset.labels import Labels, label_path, labels_to_ground_truth, read_labels
from utils.device import available_cores
from utils.errors import InputError, reason_of
from utils.pipeline import parallel_map
from utils.pose.ground_truth import GroundTruth
from utils.pose.keypoints import Skeleton
from utils.pose.skeleton import Declared

BAR_AFTER_S = 2.0


class EvalSet(NamedTuple):
    """n images of one task of a data yaml."""

    paths: List[str]
    image_ids: List[int]  # of the JSON; else the number in the file name, or 1, 2, ...
    known: List[Union[GroundTruth, Labels]]  # what is on each image
    sizes: List[Optional[Tuple[int, int]]]  # (height, width) px as the JSON says, None: unknown
    names: List[str]
    declared: Declared  # what the keypoints are
    annotations: Optional[str]  # the COCO JSON
    category_ids: List[int]  # of each class, for results files

    @property
    def skeleton(self) -> Skeleton:
        """What the keypoints are."""
        return self.declared.skeleton

    @property
    def nkpt(self) -> int:
        return self.skeleton.count

    @property
    def sigmas(self) -> Tuple[float, ...]:
        """OKS sigma of each keypoint."""
        return self.skeleton.sigmas

    @property
    def count(self) -> int:  # type: ignore[override]  # of tuple
        """Number of images (`len()` of a NamedTuple would be its number of fields)."""
        return len(self.paths)

    def check_size(self, index: int, image_hw: Tuple[int, int]) -> None:
        """Raise InputError if the JSON says another size than (height, width) px of an image."""
        size = self.sizes[index]
        if size is not None and size != tuple(image_hw):
            raise InputError(
                "%s: %dx%d px (height x width), but %s says %dx%d"
                % (self.paths[index], *image_hw, self.annotations, *size)
            )

    def ground_truth(self, index: int, image_hw: Tuple[int, int]) -> GroundTruth:
        """What is on an image of (height, width) px; see check_size."""
        self.check_size(index, image_hw)
        known = self.known[index]
        return labels_to_ground_truth(known, image_hw) if isinstance(known, Labels) else known


def read_eval_set(data: DataYaml, task: str, from_labels_only: bool = False) -> EvalSet:
    """Images and ground truth of `train`, `val` or `test`.

    Args: from_labels_only: label files also where the yaml names a COCO JSON.

    Raises InputError for images or labels that are missing or malformed.
    """
    paths = data.images(task)
    missing = [p for p in paths if not os.path.isfile(p)]
    if missing:
        raise InputError(
            "%s, %s: %d of %d images do not exist, first %s; escalator/check.py lists all"
            % (data.path, task, len(missing), len(paths), missing[0])
        )
    declared = data.declared
    annotations = None if from_labels_only else data.annotations(task)
    if annotations is not None:
        wanted = data.skeleton if declared.names_told else None
        coco = read_coco(annotations, data.names, data.nkpt, wanted=wanted)
        declared = declared if declared.names_told else _with(declared, coco.skeleton)
        ids = _ids_in_json(paths, coco.images, annotations)
        known: List[Union[GroundTruth, Labels]] = [coco.ground_truths[i] for i in ids]
        sizes: List[Optional[Tuple[int, int]]] = [coco.images[i].hw for i in ids]
        category_ids = coco.category_ids
    else:
        ids, known = image_ids(paths), list(_labels(paths, data, task))
        sizes, category_ids = [None] * len(paths), [c + 1 for c in range(data.nc)]
    return EvalSet(paths, ids, known, sizes, data.names, declared, annotations, category_ids)


def check_images(eval_set: EvalSet, title: str) -> None:
    """Decode all images, on all cores, with a bar where it takes long.

    Args: title: of the bar.

    Raises InputError that names the first one that cannot be read, or whose size is not the JSON's.
    """
    from tqdm import tqdm

    found = parallel_map(partial(_fault, eval_set), range(eval_set.count), available_cores())
    bar = tqdm(found, title, eval_set.count, unit="file", disable=None, delay=BAR_AFTER_S)
    faults = [fault for fault in bar if fault]
    if faults:
        more = "; and %d more, escalator/check.py lists all" % (len(faults) - 1)
        raise InputError(faults[0] + (more if len(faults) > 1 else ""))


def _fault(eval_set: EvalSet, index: int) -> str:
    """What is wrong with an image, empty if nothing is."""
    path = eval_set.paths[index]
    try:
        eval_set.check_size(index, read_image_hw(path))
        check_decodable(path)
    except InputError as e:
        return str(e)
    except (ValueError, OSError) as e:
        return "%s: %s" % (path, reason_of(e))
    return ""


def _with(declared: Declared, found: Optional[Skeleton]) -> Declared:
    """A declaration that leaves open what the points are, and what a COCO JSON says of them."""
    if found is None or found.numbered:
        return declared
    if declared.sigmas_told:
        found = found._replace(sigmas=declared.skeleton.sigmas)
    return declared._replace(skeleton=found, told=(*declared.told, "kpt_names"))


def _ids_in_json(paths: Sequence[str], images: Dict[int, CocoImage], json_path: str) -> List[int]:
    """Image id of each path, by file name."""
    by_name = {Path(image.file_name).name: key for key, image in images.items()}
    if len(by_name) < len(images):  # the same name in several folders: compare whole paths
        return _ids_by_path(paths, images, json_path)
    names = [Path(p).name for p in paths]
    unknown = [p for p, name in zip(paths, names) if name not in by_name]
    _check_known(unknown, paths, json_path)
    if len(set(names)) < len(names):
        raise InputError("%s: two of the images have one name; it cannot tell them" % json_path)
    return [by_name[name] for name in names]


def _ids_by_path(paths: Sequence[str], images: Dict[int, CocoImage], json_path: str) -> List[int]:
    by_tail = {Path(image.file_name).as_posix(): key for key, image in images.items()}
    ids = []
    for path in paths:
        parts = Path(path).parts
        tails = ("/".join(parts[-n:]) for n in range(len(parts), 0, -1))
        ids.append(next((by_tail[t] for t in tails if t in by_tail), None))
    _check_known([p for p, i in zip(paths, ids) if i is None], paths, json_path)
    return ids  # type: ignore  # none is None


def _check_known(unknown: Sequence[str], paths: Sequence[str], json_path: str) -> None:
    if unknown:
        raise InputError(
            "%s: %d of the %d images are not in it, first %s; is it the JSON of these images?"
            % (json_path, len(unknown), len(paths), unknown[0])
        )


def _labels(paths: Sequence[str], data: DataYaml, task: str):
    """Labels of each image. A missing file is an error: nobody there is an empty file."""
    files = [label_path(p) for p in paths]
    missing = [f for f in files if not f.is_file()]
    if missing:
        raise InputError(
            "%s, %s: %d of %d images have no label file, first %s; "
            "an image without persons needs an empty one"
            % (data.path, task, len(missing), len(paths), missing[0])
        )
    for file in files:
        yield read_labels(file, data.nkpt, data.nc, dims=data.declared.dims)
