"""Weights of a head for another head, value by value: fine-tuning on other classes or keypoints.

taken = transfer_head(source, model)
taken.classes, taken.keypoints                    # what kept its weights

The channels of a level are na x (5 + nc + 3K) values (models/yolo.py, PoseHead), so with another nc
or K the same channel means something else. Box and objectness keep their weights, classes and
keypoints where they have the same name; the rest stays as `model` has it.
"""

from typing import Dict, List, NamedTuple, Optional, Sequence, Tuple

import torch
from torch import nn

from models.yolo import Model, PoseHead
from utils.pose.keypoints import Skeleton, keypoint_name


class Taken(NamedTuple):
    """What transfer_head did."""

    classes: List[Optional[int]]  # class of the source for each class, None: fresh
    keypoints: List[Optional[int]]
    fresh_rows: int  # values that are known but lie in the other convolution of the source


def transfer_head(source: Model, model: Model) -> Optional[Taken]:
    """Copy the last convolutions of the head of `source` to `model`, in place.

    None, and nothing is copied, where the heads are built differently: other levels, anchors a
    cell, channels or branches.
    """
    old, new = source.head, model.head
    if not _alike(old, new):
        return None
    classes = match_classes(source.names, model.names)
    keypoints = match_keypoints(source.skeleton, model.skeleton)
    values = _values(old, classes, keypoints)
    fresh = 0
    with torch.no_grad():
        for i in range(new.nl):
            pairs = old.convolutions(i), new.convolutions(i)
            fresh += _copy_level(*pairs, new, values=values)
    return Taken(classes, keypoints, fresh)


def same_meaning(source: Model, model: Model) -> bool:
    """Whether each channel of both heads means the same."""
    classes = match_classes(source.names, model.names)
    keypoints = match_keypoints(source.skeleton, model.skeleton)
    same = classes == list(range(source.nc)) and keypoints == list(range(source.nkpt))
    return same and (source.nc, source.nkpt) == (model.nc, model.nkpt)


def match_classes(old: Sequence[str], new: Sequence[str]) -> List[Optional[int]]:
    """The old class of each new one: by name; if none has its name, by number where there are as
    many, since then they were renamed."""
    numbers: Dict[str, int] = {name.strip().lower(): i for i, name in enumerate(old)}
    found = [numbers.get(name.strip().lower()) for name in new]
    if len(old) == len(new) and all(i is None for i in found):
        return list(range(len(new)))
    return found


def match_keypoints(old: Skeleton, new: Skeleton) -> List[Optional[int]]:
    """The old keypoint of each new one: by name; by number where one of both has no names and
    nothing says that they are others."""
    if old.numbered or new.numbered:
        if old.count == new.count or (old.numbered and new.numbered):
            return [k if k < old.count else None for k in range(new.count)]
        return [None] * new.count
    numbers = {keypoint_name(name): k for k, name in enumerate(old.names)}
    return [numbers.get(keypoint_name(name)) for name in new.names]


def value_names(model: Model) -> List[str]:
    """Names of the tensors whose rows are values of an anchor, in the state_dict."""
    prefix = "model.%d." % (len(model.model) - 1)
    of_head = {id(p): prefix + name for name, p in model.head.named_parameters()}
    pairs = [model.head.convolutions(i) for i in range(model.head.nl)]
    return [of_head[id(p)] for pair in pairs for conv in pair for p in conv.parameters()]


def _alike(old: PoseHead, new: PoseHead) -> bool:
    def shape(head: PoseHead) -> Tuple:
        return head.nl, head.na, head.dw_conv_kpt, [conv.in_channels for conv in head.m]

    return shape(old) == shape(new)


def _values(
    old: PoseHead, classes: Sequence[Optional[int]], keypoints: Sequence[Optional[int]]
) -> List[Optional[int]]:
    """Where each value of an anchor is among the values of the old head."""
    values: List[Optional[int]] = [0, 1, 2, 3, 4]
    values += [None if c is None else 5 + c for c in classes]
    for k in keypoints:
        values += [None if k is None else old.no_det + 3 * k + i for i in range(3)]
    return values


def _copy_level(
    old: Tuple[nn.Conv2d, nn.Conv2d],
    new: Tuple[nn.Conv2d, nn.Conv2d],
    head: PoseHead,
    *,
    values: Sequence[Optional[int]],
) -> int:
    """Copy the rows of a level; returns how many are in the wrong convolution.

    Both convolutions read the same map, so a row may move from one to the other, unless the
    keypoint branch has layers of its own before its last one.
    """
    na, borders = head.na, (old[0].out_channels, new[0].out_channels)
    width = (old[0].out_channels + old[1].out_channels) // na
    fresh = 0
    for a in range(na):
        for j, value in enumerate(values):
            if value is None:
                continue
            source, target = a * width + value, a * len(values) + j
            sides = int(source >= borders[0]), int(target >= borders[1])
            if sides[0] != sides[1] and head.dw_conv_kpt:
                fresh += 1
                continue
            row_from = source - borders[0] * sides[0]
            row_to = target - borders[1] * sides[1]
            new[sides[1]].weight[row_to] = old[sides[0]].weight[row_from]
            new[sides[1]].bias[row_to] = old[sides[0]].bias[row_from]  # type: ignore
    return fresh
