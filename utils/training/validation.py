"""How good a network in training is: `validate(trainer, eval_set, single_class=False)`."""

import copy
import gc
from typing import Dict, List, NamedTuple

import numpy as np

from utils.dataset.eval_set import EvalSet
from utils.evaluation.evaluate import Accuracy, evaluate
from utils.runtime.predictor import BrokenModelError, Predictor
from utils.runtime.torch_backend import TorchBackend
from utils.training.trainer import Trainer

CONF_THRES, IOU_THRES = 0.001, 0.6  # as test_multi_backend.py's
GPU_BATCH = 32  # images at a time
PLAIN_GREYS = (0, 64, 96, 114, 128, 192, 255)  # 114 is that of the letterbox
PLAIN_LIMIT = 0.25  # score of a person where there is nothing: detect would show it
AP_FIGURES = ("kpt_p", "kpt_r", "kpt_ap50", "kpt_ap", "box_p", "box_r", "box_ap50", "box_ap")


class Validation(NamedTuple):
    """What a validation found."""

    # column of results.csv -> value; AP 0 and no plain_score: the predictions are no poses
    figures: Dict[str, float]
    per_class: List[float]  # keypoint AP of each class


def validate(trainer: Trainer, eval_set: EvalSet, *, single_class: bool) -> Validation:
    """Test the averaged weights.

    A network whose running statistics of batch normalisation have come away from those of its
    batches may predict anything. Training goes on from the statistics of batches, and often
    recovers, so that is a bad epoch, and no error.

    Args: single_class: all classes are one.

    Raises InputError for images that cannot be read.
    """
    import torch

    device = trainer.options.device
    gpu = device.index if device.type == "cuda" else -1
    backend = TorchBackend.of_model(copy.deepcopy(trainer.ema.model), gpu, half=gpu >= 0)
    predictor = Predictor(
        backend, trainer.batches.spec.size, conf_thres=CONF_THRES, iou_thres=IOU_THRES
    )
    batch = GPU_BATCH if gpu >= 0 else 1
    # cuDNN keeps what it measures for one thread, and evaluate starts new ones: in every validation
    # it would measure every shape anew, two seconds each.
    measured = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = False
    try:
        found = evaluate(predictor, eval_set, batch_size=batch, single_class=single_class)
        validation = _figures(found.accuracy, plain_score(predictor))
    except BrokenModelError:
        validation = Validation(dict.fromkeys(AP_FIGURES, 0.0), [0.0] * len(eval_set.names))
    finally:
        torch.backends.cudnn.benchmark = measured
    if gpu >= 0:  # what streams and graphs of a validation used, nothing else can use
        del backend, predictor
        gc.collect()
        torch.cuda.empty_cache()
    return validation


def _figures(accuracy: Accuracy, plain: float) -> Validation:
    """Args: plain: see plain_score."""
    pose, box = accuracy.pose_rows[0], accuracy.box_rows[0]
    values = (pose.precision, pose.recall, pose.ap50, pose.ap,
              box.precision, box.recall, box.ap50, box.ap)  # fmt: skip
    figures = {**dict(zip(AP_FIGURES, values)), "plain_score": plain}
    return Validation(figures, [row.ap for row in accuracy.pose_rows[1:]])


def plain_score(predictor: Predictor) -> float:
    """Highest score, 0..1, in images that are grey all over.

    Training shows people everywhere, so nothing keeps it low, and no AP tells.
    """
    size = (*predictor.net_hw, 3)
    scores = [
        poses.scores.max(initial=0.0)
        for grey in PLAIN_GREYS
        for poses in predictor([np.full(size, grey, np.uint8)])
    ]
    return float(max(scores))
