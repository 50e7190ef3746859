"""How far the outputs of a network's last convolutions are from those of its original.

    head = open_head(teacher, Graph(model))
    head.outputs                       # names of the maps that are compared
    loss = head.loss(found, wanted)    # {name: (B, C, h, w)} each

Two kinds of head: ours, whose anchors carry objectness, classes, box and points together, and that
of imported models, without anchors, with convolutions of their own for box, classes and points.
Imports torch, so callers do it late.
"""

import json
from typing import TYPE_CHECKING, Any, Dict, List, NamedTuple, Sequence, Set, Tuple, Union

import torch
from torch.nn import functional as F

from utils.errors import InputError, one_line
from utils.graph.analysis import Graph
from utils.pose import skeleton
from utils.pose.keypoints import AREA_OF_BOX, COCO_NAMES

if TYPE_CHECKING:
    from onnx import ModelProto

Maps = Dict[str, torch.Tensor]  # name of a tensor of the graph -> its values
MIN_SCORE = 0.02  # of the teacher's objectness or best class, where poses and boxes count


class Channels(NamedTuple):
    """Channels of an anchor: x y w h objectness, nc classes, 3 a keypoint."""

    nc: int
    nkpt: int
    sigmas: Tuple[float, ...]  # OKS sigma of each keypoint

    @property
    def width(self) -> int:
        return 5 + self.nc + 3 * self.nkpt


def read_channels(model: "ModelProto") -> Channels:
    """From the metadata; a person with COCO's keypoints without."""
    values = {entry.key: entry.value for entry in model.metadata_props}
    try:
        nc = int(json.loads(values.get("nc", "1")))
        nkpt = int(json.loads(values.get("nkpt", str(len(COCO_NAMES)))))
    except (ValueError, TypeError, OverflowError, RecursionError) as e:
        raise InputError("`distill`: metadata nc or nkpt of the ONNX is no number") from e
    try:
        keys = {key: json.loads(values[key]) for key in skeleton.KEYS if key in values}
        return Channels(nc, nkpt, skeleton.of_model(keys, nkpt).sigmas)
    except (ValueError, RecursionError) as e:
        raise InputError("`distill`: metadata of the ONNX: %s" % one_line(e)) from e


def read_levels(graph: Graph) -> List[List[str]]:
    """Outputs that are the channels of each level of the head, in their order.

    What one Concat joins is a level, other convolutions are alone.
    """
    names = {conv.output[0] for conv in graph.head}
    levels: List[List[str]] = []
    joined: Set[str] = set()
    for node in graph.nodes:
        if node.op_type == "Concat" and set(node.input) <= names:
            levels.append(list(node.input))
            joined.update(node.input)
    alone = [conv.output[0] for conv in graph.head if conv.output[0] not in joined]
    return levels + [[name] for name in alone]


class AnchorHead:
    """Of YOLO-Pose: each anchor has x y w h objectness, classes and points in one map."""

    def __init__(self, graph: Graph, channels: Channels):
        self.channels, self.levels = channels, read_levels(graph)
        self.outputs = [name for level in self.levels for name in level]

    def loss(self, found: Maps, wanted: Maps) -> torch.Tensor:
        """Sum of pose_loss of the levels."""

        def joined(maps: Maps, level: List[str]) -> torch.Tensor:
            return torch.cat([maps[name] for name in level], 1)

        losses = [
            pose_loss(joined(found, level), joined(wanted, level), self.channels)
            for level in self.levels
        ]
        return torch.stack(losses).sum()


class SplitHead:
    """Of imported models: maps of boxes, of class scores and of points at each level.

    Attributes: bins: of the distribution of a side of the box, 1: the side itself.

    Raises InputError where the widths of the maps do not tell which is which.
    """

    def __init__(self, graph: Graph, channels: Channels):
        self.nc, self.nkpt, self.sigmas = channels
        self.bins = graph.bins or 1
        self.outputs = [conv.output[0] for conv in graph.head]
        self.kinds: Dict[str, str] = {}
        widths = {
            "box": (4 * self.bins,),
            "score": (self.nc,),
            "points": (3 * self.nkpt, 2 * self.nkpt),
        }
        for conv in graph.head:
            weights = graph.weights(conv)
            count = 0 if weights is None else len(weights)
            fitting = [kind for kind, known in widths.items() if count in known]
            if len(fitting) != 1:
                raise InputError(
                    "`distill`: %s of the head has %d channels, which may be %s (%d bins, %d "
                    "classes, %d keypoints)"
                    % (conv.output[0], count, " or ".join(fitting) or "nothing known", self.bins,
                       self.nc, self.nkpt)
                )  # fmt: skip
            self.kinds[conv.output[0]] = fitting[0]

    def loss(self, found: Maps, wanted: Maps) -> torch.Tensor:
        """Sum over the levels, which are the maps of one size."""
        levels: Dict[Any, Dict[str, str]] = {}
        for name in self.outputs:
            levels.setdefault(tuple(wanted[name].shape[2:]), {})[self.kinds[name]] = name

        def of_level(maps: Dict[str, Any], level: Dict[str, str]) -> Dict[str, Any]:
            return {kind: _rows(maps[name]) for kind, name in level.items()}

        return sum(
            self._level(of_level(found, level), of_level(wanted, level))
            for level in levels.values()
        )

    def _level(self, found: Dict[str, Any], wanted: Dict[str, Any]) -> Any:
        """As pose_loss, the best class in place of the objectness. Maps are (n, C)."""
        score = torch.sigmoid(wanted["score"]).max(1).values
        objects = score.sum() + 1
        loss = divergence(found["score"], wanted["score"]).sum() / objects
        sure = score > MIN_SCORE
        if not bool(sure.any()):
            return loss
        weight = score[sure]
        points, target = (t["points"][sure].reshape(len(weight), self.nkpt, -1)
                          for t in (found, wanted))  # fmt: skip
        area = extent_area(target)
        box, box_target = found["box"][sure], wanted["box"][sure]
        if self.bins > 1:  # the distributions of the four sides
            box, box_target = (t.reshape(len(t), 4, self.bins).log_softmax(2)
                               for t in (box, box_target))  # fmt: skip
            sides = (box_target.exp() * (box_target - box)).sum((1, 2))
        else:
            sides = torch.log1p(50 * (box - box_target).square().sum(1) / area)
        each = point_loss(points, target, area, sigmas=self.sigmas) + sides
        return loss + (weight * each).sum() / objects


def open_head(teacher: "ModelProto", graph: Graph) -> Union[AnchorHead, SplitHead]:
    """The head of a model, by its metadata. Raises InputError for one of another kind."""
    values = {entry.key: entry.value for entry in teacher.metadata_props}
    kind = SplitHead if values.get("objectness") == "false" else AnchorHead
    return kind(graph, read_channels(teacher))


def _rows(maps: Any) -> Any:
    """(B, C, h, w) -> (B h w, C)."""
    return maps.permute(0, 2, 3, 1).reshape(-1, maps.shape[1])


def pose_loss(found: torch.Tensor, wanted: torch.Tensor, channels: Channels) -> torch.Tensor:
    """How far raw predictions of a level, (B, anchors x width, h, w), are from the teacher's.

    Objectness counts everywhere, as the divergence of the two probabilities. Boxes and points
    count with the teacher's objectness. Points as in OKS: squared distance over the object's area
    (from the extent of its points, the anchors being in the decode) and the keypoint's sigma.
    Its logarithm keeps a hopeless point from deciding.
    """
    b, count, h, w = wanted.shape
    if count % channels.width:
        raise InputError(
            "`distill`: a level of the head has %d channels, not a multiple of %d (5 + %d classes "
            "+ 3 x %d keypoints)" % (count, channels.width, channels.nc, channels.nkpt)
        )
    found, wanted = (
        t.reshape(b, -1, channels.width, h, w).transpose(2, 4) for t in (found, wanted)
    )
    score = torch.sigmoid(wanted[..., 4])
    objects = score.sum() + 1
    loss = divergence(found[..., 4], wanted[..., 4]).sum() / objects
    sure = score > MIN_SCORE
    if not bool(sure.any()):
        return loss
    found, wanted, weight = found[sure], wanted[sure], score[sure]  # (n, width)
    first = 5 + channels.nc
    classes = divergence(found[:, 5:first], wanted[:, 5:first]).sum(1)  # the score is a product
    points, target = (t[:, first:].reshape(len(t), -1, 3) for t in (found, wanted))
    area = extent_area(target)  # about that of the box
    size = area.sqrt()[:, None]
    center = 2 * (found[:, :2].sigmoid() - wanted[:, :2].sigmoid()) / size
    side = 2 * (F.logsigmoid(found[:, 2:4]) - F.logsigmoid(wanted[:, 2:4]))
    box = torch.log1p(50 * (center.square() + side.square()).sum(1))
    each = point_loss(points, target, area, sigmas=channels.sigmas) + box + classes
    return loss + (weight * each).sum() / objects


def extent_area(points: torch.Tensor) -> torch.Tensor:
    """(n,) area in cells that (n, K, 2 or 3) raw points cover, at least 1."""
    extent = 2 * (points[..., :2].max(1).values - points[..., :2].min(1).values)
    return extent.prod(1).clamp(min=1.0)


def point_loss(
    points: torch.Tensor, target: torch.Tensor, area: torch.Tensor, *, sigmas: Sequence[float]
) -> torch.Tensor:
    """(n,) loss of (n, K, 2 or 3) raw points: as in OKS, and of their confidences if they have."""
    spread = (2 * torch.tensor(sigmas, device=points.device)).square()
    moved = (2 * (points[..., :2] - target[..., :2])).square().sum(-1)
    oks = torch.log1p(moved / (2 * AREA_OF_BOX * area[:, None] * spread))
    loss = 2 * oks.mean(1)
    if points.shape[2] == 3:
        loss = loss + 0.2 * divergence(points[..., 2], target[..., 2]).mean(1)
    return loss


def divergence(found: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Kullback-Leibler divergence of probabilities given as logits."""
    p = torch.sigmoid(wanted)
    return p * (F.logsigmoid(wanted) - F.logsigmoid(found)) + (1 - p) * (
        F.logsigmoid(-wanted) - F.logsigmoid(-found)
    )
