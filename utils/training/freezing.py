"""What stays as it is while a network trains: layers, and the statistics of its normalisation."""

from typing import List

import torch
from torch import nn

from models.yolo import Model
from utils.training.distributed import Ranks


def freeze(model: Model, layers: int) -> List[nn.Module]:
    """Make the first `layers` layers constant; returns them."""
    frozen = list(model.model)[:layers]
    for layer in frozen:
        for parameter in layer.parameters():
            parameter.requires_grad_(False)
    return frozen


def keep_statistics(model: nn.Module, ranks: Ranks) -> List[nn.Module]:
    """Ready the model for normalising with its running statistics; returns the layers to `eval`.

    A batch of images has other statistics than the run on average. For most images the difference
    is nothing, but in areas that are grey all over it adds up from layer to layer, so that a
    network which finds nobody there in training may be sure of a person in validation.

    CUDA graphs of the model go, as they were recorded with the statistics of batches. All processes
    get the statistics of the first one, which validates.
    """
    # torch.cuda.make_graphed_callables has put its own `forward` in front of that of the class
    model.__dict__.pop("forward", None)
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    if ranks.world > 1:
        for norm in norms:
            for buffer in norm.buffers():
                torch.distributed.broadcast(buffer, 0)
    return list(norms)
