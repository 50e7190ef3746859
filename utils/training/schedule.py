"""Learning rate and momentum of every step of a run: plain functions of the step."""

import math
from typing import NamedTuple

from utils.training.hyper_parameters import Hyp

WARMUP_SHARE = 0.1  # of the run, at most


class Rates(NamedTuple):
    """What the optimizer is set to for one step."""

    lr: float  # of weights
    bias_lr: float
    momentum: float


class Schedule:
    """Warm-up, then cosine (or a straight line) from lr0 to lr0 * lrf.

    Args:
        steps: optimizer steps of the whole run.
        epoch_steps: of one epoch.
        linear: a straight line rather than a cosine.
        bias_warmup: start biases at hyp.warmup_bias_lr (SGD); otherwise at 0, as the weights.
    """

    def __init__(
        self,
        hyp: Hyp,
        steps: int,
        epoch_steps: int,
        *,
        linear: bool = False,
        bias_warmup: bool = True,
    ):
        self.hyp, self.steps, self.linear = hyp, steps, linear
        self.bias_start = hyp.warmup_bias_lr if bias_warmup else 0.0
        self.warmup = min(int(round(hyp.warmup_epochs * epoch_steps)), int(WARMUP_SHARE * steps))

    def __call__(self, step: int) -> Rates:
        """Rates of a step, counted from 0."""
        hyp = self.hyp
        done = step / max(self.steps - 1, 1)
        share = 1 - done if self.linear else (1 + math.cos(math.pi * done)) / 2
        lr = hyp.lr0 * (hyp.lrf + (1 - hyp.lrf) * share)
        if step >= self.warmup:
            return Rates(lr, lr, hyp.momentum)
        rise = (step + 1) / (self.warmup + 1)
        bias = self.bias_start + rise * (lr - self.bias_start)
        momentum = hyp.warmup_momentum + rise * (hyp.momentum - hyp.warmup_momentum)
        return Rates(rise * lr, bias, momentum)
