"""A network in training on eight images of noise with a person each."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np

from tests.conftest import ROOT
from utils.dataset.labels import Labels
from utils.training.assembler import Spec
from utils.training.batches import TrainBatches
from utils.training.hyper_parameters import read_hyp
from utils.training.train_set import TrainSet
from utils.training.trainer import Trainer, TrainerOptions


def make_trainer(
    folder: Path, cfg: Any, options: TrainerOptions, *, hyp: Any = None, **changes: Any
) -> Trainer:
    """Three epochs of two batches of 4 images, 128 px; 16 batches are one update.

    Args: cfg: of the network. hyp: changes of data/hyp.scratch.yaml. changes: of the Spec.
    """
    import torch

    from models.yolo import Model

    torch.manual_seed(0)
    model = Model(cfg)
    rng = np.random.default_rng(0)
    paths = []
    for i in range(8):
        path = folder / ("%d.png" % i)
        noise = rng.integers(0, 255, (64, 64, 3), np.uint8)
        path.write_bytes(cv2.imencode(".png", noise)[1].tobytes())
        paths.append(str(path))
    points = np.concatenate([rng.random((1, 17, 2)), np.full((1, 17, 1), 2.0)], 2)
    one = Labels(np.zeros(1, np.int64), np.array([[0.5, 0.5, 0.6, 0.8]]), points)
    train_set = TrainSet(paths, np.full((8, 2), 64), [one] * 8, np.ones(8), [])
    anchors = (model.head.anchors * model.head.stride.view(-1, 1, 1)).numpy().astype(float)
    spec = Spec((128, 128), 4, anchors, [8, 16, 32, 64], workers=0)
    spec = spec._replace(flip_index=model.skeleton.flip_index, **changes)
    used = read_hyp(ROOT / "data" / "hyp.scratch.yaml")._replace(**(hyp or {}))
    batches = TrainBatches(train_set, used, spec, epochs=options.epochs)
    return Trainer(model, batches, used, options=options)
