"""What must be the same in all processes of a run: `peers.check_alike("start", of_start(...))`.

Otherwise they would wait for each other for ever, or learn from different data.
"""

import hashlib
import os
from typing import TYPE_CHECKING, Any, Dict

from models.yolo import Model
from utils.training.config import TrainConfig
from utils.training.hyper_parameters import Hyp
from utils.training.train_set import TrainSet

if TYPE_CHECKING:
    import torch

# Of each host: places, and what concerns the machine. What the files hold is compared instead.
OWN = ("weights", "cfg", "data", "hyp", "device", "workers", "cache_images", "resume", "project",
       "name", "exist_ok", "kpt_label")  # fmt: skip


def of_start(config: TrainConfig, device: "torch.device") -> Dict[str, Any]:
    """Flags and machine: name -> plain value."""
    import torch

    flags = {"`%s`" % k: v for k, v in config.plain().items() if k not in OWN}
    version = torch.__version__.split("+")[0]
    return {"the kind of device": device.type, "the version of PyTorch": version, **flags}


def of_data(train_set: TrainSet, model: Model, hyp: Hyp) -> Dict[str, Any]:
    """What was read: name -> plain value. Names of images count, the folders they are in do not."""
    images, labels, network = (hashlib.sha256() for _ in range(3))
    for path in train_set.paths:
        images.update(os.path.basename(path).encode("utf-8", "surrogateescape") + b"\0")
    images.update(train_set.sizes.tobytes() + train_set.repeats.tobytes())
    for item in train_set.labels:
        for part in item:
            labels.update(part.tobytes())
    for name, tensor in model.state_dict().items():
        network.update(repr((name, tuple(tensor.shape))).encode())
    return {
        "the number of training images": train_set.count,
        "SHA-256 of the names, sizes and order of the training images": images.hexdigest()[:12],
        "SHA-256 of the training labels": labels.hexdigest()[:12],
        "SHA-256 of the shapes of the network": network.hexdigest()[:12],
        **{"`hyp`, key %s" % name: value for name, value in hyp._asdict().items()},
    }
