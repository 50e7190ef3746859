"""What test does: EvaluateConfig."""

import dataclasses
import os
from typing import Optional, Sequence

from utils.dataset.data_yaml import TASKS
from utils.errors import InputError, check_limits
from utils.pose.letterbox import MAX_SIZE

STUDY_SIZES = (320, 448, 576, 640, 704, 832)


LIMITS = {  # parameter -> (lowest, highest)
    "conf_thres": (0, 1), "iou_thres": (0, 1), "max_det": (1, 100000), "batch_size": (1, 4096),
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class EvaluateConfig:
    """What `evaluate_files` tests and writes. Raises InputError for values that cannot be."""

    weights: Sequence[str]  # .pt, .onnx or TensorRT engines
    data: str = "data/coco_kpts.yaml"  # data yaml
    task: str = "val"  # train, val or test: accuracy on these images; speed; study
    img_size: Optional[Sequence[int]] = None  # px, one number or height width [the model's own]
    study_sizes: Sequence[int] = STUDY_SIZES  # px, of the task study
    batch_size: Optional[int] = None  # where the model takes any [32 on a GPU, 1 on a CPU]
    conf_thres: Optional[float] = None  # 0..1 [0.001; speed 0.25; embedded NMS: its own]
    iou_thres: Optional[float] = None  # 0..1 [0.6; speed 0.45; embedded NMS: its own]
    max_det: int = 300  # poses an image at most
    device: str = ""  # cpu or a GPU index, empty: a GPU if the runtime has one
    half: bool = False  # FP16 inference of a .pt on a GPU
    square: bool = False  # pad to the full size also where the model takes a rectangle
    single_cls: bool = False  # take all classes as one
    agnostic_nms: bool = False  # NMS across classes
    augment: bool = False  # three views of each image, merged
    flip_test: bool = False  # two views of each image, one mirrored, averaged
    from_labels: bool = False  # ground truth from the label files also where there is a COCO JSON
    compare: bool = False  # tables and chart of several files of one model
    bootstrap: int = 0  # draws for 95 % confidence intervals of the keypoint AP
    verbose: bool = False  # a row for each class
    save_txt: bool = False
    save_conf: bool = False
    save_hybrid: bool = False
    save_json: bool = False
    save_json_kpt: bool = False
    results_file: Optional[str] = None  # a copy of results.json
    no_report: bool = False  # no charts and report.html
    project: str = "runs/test"  # results go to project/name
    name: str = "exp"
    exist_ok: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.weights, str):
            object.__setattr__(self, "weights", (self.weights,))
        if self.task not in (*TASKS, "speed", "study"):
            raise InputError(
                "`task` %s: expected %s, speed or study" % (self.task, ", ".join(TASKS))
            )
        check_limits(self, LIMITS)
        bad = [side for side in self.study_sizes if not 1 <= side <= MAX_SIZE]
        if bad:
            raise InputError("`study_sizes` %d: expected 1 to %d" % (bad[0], MAX_SIZE))
        if self.compare and len(self.weights) < 2:
            raise InputError("`compare`: give `weights` two or more files of one model")
        if len({os.path.abspath(w) for w in self.weights}) < len(self.weights):
            raise InputError("`weights`: a file is there twice")
        if not 0 <= self.bootstrap <= 100000:
            raise InputError("`bootstrap` %d: expected 0 to 100000 draws" % self.bootstrap)
        if not self.name:
            raise InputError("`name`: expected the name of a folder")
        self._check_combinations()

    def _check_combinations(self) -> None:
        if self.augment and self.flip_test:
            raise InputError("`augment` and `flip_test`: one of them; `augment` mirrors, too")
        if self.save_conf and not self.save_txt:
            raise InputError("`save_conf` goes with `save_txt`")
        if self.save_txt and self.save_hybrid:
            raise InputError("`save_txt` and `save_hybrid` write the same files; choose one")
        if self.task in ("speed", "study"):
            for name in "save_txt save_hybrid save_json save_json_kpt compare".split():
                if getattr(self, name):
                    raise InputError("`%s`: not with `task` %s" % (name, self.task))
        if self.task == "study" and self.img_size:
            raise InputError("`img_size`: `task` study takes `study_sizes`")
