"""Exponential moving average of a model's weights: what is tested and saved."""

import copy
import math
from typing import Any, List, Tuple

import torch
from torch import nn


class Ema:
    """The average, a model of its own (`model`, eval, no gradients).

    The decay rises from 0 to `decay` over about `ramp` updates, so that the first weights, which
    know nothing, are soon forgotten.
    """

    def __init__(
        self, model: nn.Module, decay: float = 0.9999, ramp: float = 2000, *, updates: int = 0
    ):
        self.model: Any = copy.deepcopy(model).eval()
        for parameter in self.model.parameters():
            parameter.requires_grad_(False)
        self.decay, self.ramp, self.updates = decay, ramp, updates
        self._pairs: Any = None  # (model, averages, values, and both of what is no float)

    def update(self, model: nn.Module) -> None:
        """Take in the weights after an optimizer step."""
        self.updates += 1
        keep = self.decay * (1 - math.exp(-self.updates / self.ramp))
        if self._pairs is None or self._pairs[0] is not model:
            self._pairs = (model, *self._pair_up(model))
        _, mine, its, whole = self._pairs
        with torch.no_grad():
            torch._foreach_lerp_(mine, its, 1 - keep)
            torch._foreach_copy_(*whole)

    def _pair_up(self, model: nn.Module) -> Any:
        """Tensors that belong together; they are changed in place only, so this is done once."""
        mine: List[torch.Tensor] = []
        its: List[torch.Tensor] = []
        whole: Tuple[List[torch.Tensor], List[torch.Tensor]] = ([], [])
        state = model.state_dict()
        for name, tensor in self.model.state_dict().items():
            if tensor.is_floating_point():
                mine.append(tensor)
                its.append(state[name].detach())
            else:
                whole[0].append(tensor)
                whole[1].append(state[name])
        return mine, its, whole
