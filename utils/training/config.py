"""How a network is trained: `TrainConfig(cfg="models/hub/yolov5n6_kpts.yaml", epochs=100)`."""

import dataclasses
from pathlib import Path
from typing import Any, Dict, Optional, Sequence, Union

from utils.device import available_cores
from utils.errors import InputError, check_limits
from utils.pose.letterbox import HW, parse_size

WORKERS = 8  # at most, one a core, where the config names no number
LIMITS = {  # parameter -> (lowest, highest)
    "epochs": (1, 100000), "batch_size": (1, 65536), "workers": (0, 256), "freeze": (0, 1000),
    "val_period": (1, 100000), "seed": (0, 2**31),
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """How `train` trains. Raises InputError for values that cannot be."""

    weights: str = ""  # checkpoint to start from, empty: from scratch
    cfg: str = ""  # yaml of the network [that of `weights`]
    data: str = "data/coco_kpts.yaml"
    hyp: str = "data/hyp.scratch.yaml"
    epochs: int = 300
    batch_size: int = 16  # images a step, of all GPUs together
    img_size: Sequence[int] = (640,)  # px, one number or height width
    device: str = ""  # GPU index, several as 0,1, or cpu [GPU 0 if there is one]
    workers: Optional[int] = None  # processes that load, for each GPU [WORKERS]
    freeze: int = 0  # layers that do not learn, from the first one
    resume: Union[bool, str] = False  # the last.pt of a run, True: the latest one of `project`
    rect: bool = False  # batches of one shape, no mosaic
    multi_scale: bool = False  # vary the size by half up and down
    cache_images: bool = False  # keep decoded images in memory
    image_weights: bool = False  # draw images of badly found classes more often
    single_cls: bool = False  # all classes are one
    label_smoothing: float = 0.0  # 0..1, of the class targets
    adam: bool = False  # AdamW rather than SGD
    linear_lr: bool = False  # a straight line rather than a cosine
    sync_bn: bool = False  # batch statistics over all GPUs
    no_amp: bool = False  # FP32 only
    compile: bool = False  # torch.compile
    no_graphs: bool = False  # no CUDA graphs of the network
    noautoanchor: bool = False  # keep the anchors, whatever the boxes
    notest: bool = False  # validate after the last epoch only
    val_period: int = 1  # epochs from one validation to the next
    nosave: bool = False  # write checkpoints after the last epoch only
    evolve: bool = False  # refused: not available
    seed: int = 0
    kpt_label: bool = False  # without effect: keypoints are always learnt
    project: str = "runs/train"  # folder of the runs
    name: str = "exp"  # folder of this run in `project`
    exist_ok: bool = False  # write into `project`/`name` also where it exists

    def __post_init__(self) -> None:
        if self.evolve:
            raise InputError(
                "`evolve` is not available; vary the keys of `hyp`, for instance with Optuna, as "
                "docs/training.md shows"
            )
        if self.weights and not self.resume and Path(self.weights).suffix != ".pt":
            raise InputError("`weights` %s: expected a .pt checkpoint" % self.weights)
        check_limits(self, LIMITS)
        if not 0 <= self.label_smoothing < 1:
            raise InputError("`label_smoothing` %g: expected 0 to 1" % self.label_smoothing)
        parse_size(self.img_size)
        if not (self.weights or self.cfg or self.resume):
            raise InputError("`cfg`: expected a network, such as models/hub/yolov5s6_kpts.yaml, or "
                             "`weights`")  # fmt: skip

    @property
    def size(self) -> HW:
        """(height, width) px asked for; the network may need a multiple of its stride."""
        return parse_size(self.img_size)

    @property
    def loaders(self) -> int:
        """Processes that load, for each GPU."""
        return min(WORKERS, available_cores()) if self.workers is None else self.workers

    def share_of_batch(self, processes: int) -> int:
        """Images a step of each process. Raises InputError if they cannot be shared alike."""
        if self.batch_size % processes:
            raise InputError(
                "`batch_size` %d: cannot be divided by %d GPUs; try %d"
                % (self.batch_size, processes, max(self.batch_size // processes, 1) * processes)
            )
        return self.batch_size // processes

    def plain(self) -> Dict[str, Any]:
        """The fields as they are written to opt.yaml and last.pt."""
        fields = dataclasses.asdict(self)
        return {**fields, "img_size": list(self.img_size), "workers": self.loaders}
