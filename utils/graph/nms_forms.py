"""The two forms of embedded NMS as nodes: predictions (B, 5 + nc + 3K, N) -> the kept boxes.

docs/nms.md says how the static form works and what its bounds mean.
"""

from typing import NamedTuple, Optional, Tuple

import numpy as np

from utils.errors import InputError
from utils.graph.nodes import Nodes
from utils.pose.greedy import below

FORMS = ("efficientnms", "static")
PLUGIN = "EfficientNMS_ONNX_TRT"
MAX_TOPK = 3840  # the most that TensorRT's TopK layer takes
# (from this conf_thres on, candidates, steps); docs/nms.md tells how often more are needed
MAX_STEPS = 511  # 255 are more than any chain that was seen
BOUNDS = ((0.1, 512, 31), (0.0, 2048, 31))


class Nms(NamedTuple):
    """What is put into the model.

    `candidates` boxes of the best scores take part, and chains of up to `steps` boxes, each
    suppressed or saved by the one before, are resolved; both for the static form only, 0: chosen
    from conf_thres. An odd number of steps returns a subset of the exact result where a chain is
    longer, never a box that greedy NMS drops.
    """

    form: str = "efficientnms"
    conf_thres: float = 0.25
    iou_thres: float = 0.45
    topk: int = 100
    candidates: int = 0
    steps: int = 0

    def resolved(self) -> "Nms":
        """With `candidates` and `steps` filled in, checked. Raises InputError."""
        if self.form not in FORMS:
            raise InputError("`nms` %s: expected %s" % (self.form, " or ".join(FORMS)))
        for flag, value in (("conf", self.conf_thres), ("iou", self.iou_thres)):
            if not 0 <= value <= 1:  # also NaN
                raise InputError("`%s_thres` %g: expected 0 to 1" % (flag, value))
        if not 1 <= self.topk <= MAX_TOPK:
            raise InputError(
                "`topk_all` %d: expected 1 to %d (TensorRT's limit)" % (self.topk, MAX_TOPK)
            )
        candidates, steps = next(b[1:] for b in BOUNDS if self.conf_thres >= b[0])
        candidates = self.candidates or max(candidates, self.topk)
        if not self.topk <= candidates <= MAX_TOPK:
            raise InputError(
                "`nms_candidates` %d: expected `topk_all` %d to %d (TensorRT's limit)"
                % (candidates, self.topk, MAX_TOPK)
            )
        steps = self.steps or steps
        if not 1 <= steps <= MAX_STEPS or steps % 2 == 0:
            raise InputError(
                "`nms_steps` %d: expected an odd number up to %d; each adds nodes to the model"
                % (steps, MAX_STEPS)
            )
        return self._replace(candidates=candidates, steps=steps)


class Kept(NamedTuple):
    """Names of the tensors of the kept boxes, all (B, 1, topk)."""

    index: str  # type: ignore[assignment]  # int64 column of `values`, 0 where not found
    score: str
    cls: Optional[str]  # int64; None where there is one class
    found: str  # bool


def class_scores(n: Nodes, values: str, nc: int) -> str:
    """Objectness x class probability, (B, nc, N)."""
    return n.op("Mul", n.slice(values, 4, 5), n.slice(values, 5, 5 + nc))


def corners(n: Nodes, boxes: str) -> Tuple[str, str]:
    """(B, 4, n) cx cy w h -> (B, 2, n) top left, (B, 2, n) bottom right."""
    xy, wh = n.slice(boxes, 0, 2), n.slice(boxes, 2, 4)
    half = n.op("Mul", wh, n.const(0.5))
    return n.op("Sub", xy, half), n.op("Add", xy, half)


def finite(n: Nodes, rows: str) -> str:
    """(B, R, n) -> (B, 1, n) bool: no inf or NaN, which an FP16 network that overflows says.

    Either makes the mean inf or NaN, and neither is less than a number.
    """
    mean = n.op("ReduceMean", rows, axes=[1], keepdims=1)
    return n.op("Less", n.op("Abs", mean), n.const(1e30))


def static_form(n: Nodes, values: str, nc: int, *, width: int, nms: Nms, pad: bool) -> Kept:
    """Standard operators: the best class of each box, and `select`."""
    if nc == 1:
        score, cls = class_scores(n, values, nc), None
    else:  # as utils/pose/nms.py: the best class, times objectness
        probability = n.slice(values, 5, 5 + nc)
        best = n.op("ReduceMax", probability, axes=[1], keepdims=1)
        score = n.op("Mul", n.slice(values, 4, 5), best)
        cls = n.op("ArgMax", probability, axis=1, keepdims=1)
    return select(n, values, width, score=score, cls=cls, nms=nms, center=True, pad=pad)


def _pairwise(n: Nodes, low: str, high: str) -> Tuple[str, str]:
    """Intersection and union of each pair of boxes, (B, N, N), of their corners (B, 2, N)."""
    area = n.op("ReduceProd", n.op("Sub", high, low), axes=[1], keepdims=1)
    sides = []
    for axis in (0, 1):
        near, far = n.slice(low, axis, axis + 1), n.slice(high, axis, axis + 1)
        overlap = n.op("Sub", n.op("Min", far, n.turn(far)), n.op("Max", near, n.turn(near)))
        sides.append(n.op("Relu", overlap))
    inter = n.op("Mul", *sides)
    return inter, n.op("Sub", n.op("Add", area, n.turn(area)), inter)


def select(
    n: Nodes, values: str, rows: int, *, score: str, cls: Optional[str], nms: Nms, center: bool,
    pad: bool,
) -> Kept:  # fmt: skip
    """The static form: the boxes greedy NMS keeps.

    Args:
        values: (B, rows, N), the first four cx cy w h if `center`, else corners.
        score, cls: (B, 1, N).
        pad: N may be smaller than the candidates.

    Candidates in order of score; M[j, i] = -1 where box j would suppress box i (j before i).
    kept <- relu(found + kept M), from kept = found: all that nothing kept suppresses. After t
    steps every box at the end of a chain of at most t is decided, and stays so. The matrix
    product counts suppressors, so it is exact in any precision.
    """
    conf = n.const(np.float32(nms.conf_thres))
    zero, zero_int = n.const(0.0), n.const(0, np.int64)
    passing = n.op("Where", n.op("Greater", score, conf), score, zero)  # NaN does not pass
    if pad:
        passing = n.op("Pad", passing, n.const([0] * 5 + [nms.candidates], np.int64))
    size = n.const([nms.candidates], np.int64)
    top, index = n.op("TopK", passing, size, outputs=2, axis=2)  # lower index first if equal
    found = n.op("Greater", top, zero)
    index = n.op("Where", found, index, zero_int)
    chosen = n.take(values, index, rows)
    found = n.op("And", found, finite(n, chosen))  # nobody is there
    if center:
        low, high = corners(n, chosen)
    else:
        low, high = n.slice(chosen, 0, 2), n.slice(chosen, 2, 4)
    inter, union = _pairwise(n, low, high)
    rank = np.arange(nms.candidates)
    before = n.op("Less", n.const(rank[:, None]), n.const(rank[None]))
    limit = n.op("Where", before, n.const(below(nms.iou_thres)), n.const(2.0))  # no IoU is above
    over = n.op("Greater", n.op("Div", inter, union), limit)
    if cls is not None:
        cls = n.take(cls, index, 1)
        same = n.cast(cls, "INT32")
        over = n.op("And", over, n.op("Equal", same, n.turn(same)))
    matrix = n.op("Where", over, n.const(-1.0), zero)  # [j, i]

    start = kept = n.cast(found, "FLOAT")
    for _ in range(nms.steps):
        kept = n.op("Relu", n.op("Add", start, n.op("MatMul", kept, matrix)))
    order = n.op("Mul", kept, n.const(np.arange(nms.candidates, 0, -1).reshape(1, 1, -1)))
    best, place = n.op("TopK", order, n.const([nms.topk], np.int64), outputs=2, axis=2)
    found = n.op("Greater", best, zero)
    return Kept(
        n.op("Where", found, n.take(index, place, 1), zero_int),
        n.take(top, place, 1),
        None if cls is None else n.take(cls, place, 1),
        found,
    )


def plugin_form(n: Nodes, values: str, nc: int, *, nms: Nms, images: str) -> Kept:
    """TensorRT's plugin, and each image's share of its rows.

    The plugin writes (B * topk, 3) rows image, class, box: those of different images interleave
    as their blocks happen to run, each image's own in order of score; the last row is repeated
    to the end, and all are -1 if nothing was found.
    """
    # The plugin tests >=, we test >: its thresholds are the next float32 up.
    up = np.float32(2)
    conf = np.nextafter(np.float32(nms.conf_thres), up)
    iou = np.nextafter(below(nms.iou_thres), up)
    low, high = corners(n, n.slice(values, 0, 4))
    boxes = n.turn(n.op("Concat", low, high, axis=1))
    real = finite(n, values)  # else nobody is there
    if nc > 1:  # only the best class of a box, or the plugin would keep a box for several
        best = n.op("ArgMax", n.slice(values, 5, 5 + nc), axis=1, keepdims=1)
        numbers = n.const(np.arange(nc).reshape(1, nc, 1), np.int64)
        real = n.op("And", real, n.op("Equal", best, numbers))
    scores = n.op("Where", real, class_scores(n, values, nc), n.const(0.0))
    scores = n.turn(scores)
    rows = n.op(
        PLUGIN,
        boxes,
        scores,
        domain="TRT",
        plugin_version="1",
        score_threshold=float(conf),
        iou_threshold=float(iou),
        max_output_boxes_per_class=nms.topk,
        center_point_box=0,  # what this plugin reads; box_coding belongs to its sister
        background_class=-1,
        score_activation=0,
        box_coding=0,
    )
    real = n.cast(rows, "FLOAT")
    stop = n.const([-1], np.int64)
    earlier = n.op("Slice", real, n.const([0], np.int64), stop, n.const([0], np.int64))
    earlier = n.op("Concat", n.const([[-1.0] * 3]), earlier, axis=0)
    change = n.op("ReduceL1", n.op("Sub", real, earlier), axes=[1], keepdims=1)
    flat = n.const([1, 1, -1], np.int64)
    fresh = n.op("Greater", n.op("Reshape", change, flat), n.const(0.0))
    image = n.op("Reshape", n.slice(real, 0, 1), flat)
    mine = n.op("And", n.op("Equal", image, n.cast(images, "FLOAT")), fresh)  # (B, 1, B * topk)
    place = n.op("Gather", rows, n.const([0, 2, 1], np.int64), axis=1)  # image, box, class
    place = n.op("Max", n.cast(place, "INT64"), n.const(0, np.int64))
    score = n.op("Reshape", n.op("GatherND", scores, place), flat)
    score = n.op("Where", mine, score, n.const(0.0))
    top, at = n.op("TopK", score, n.const([nms.topk], np.int64), outputs=2, axis=2)
    found = n.op("Greater", top, n.const(0.0))
    columns = n.op("Reshape", rows, n.const([1, -1, 3], np.int64))
    columns = n.cast(n.turn(columns), "INT64")  # (1, 3, B * topk)
    # (B, 1, topk) each: the rows are the same for every image, the places are not
    cls, index = (
        n.op("Gather", n.op("Reshape", n.slice(columns, c, c + 1), stop), at, axis=0)
        for c in (1, 2)
    )
    index = n.op("Where", found, index, n.const(0, np.int64))
    return Kept(index, top, None if nc == 1 else cls, found)
