"""embedded NMS an ONNX model: two interchangeable forms, and the swap between them.

    add_nms(model, nc, Nms("static", conf_thres=0.25, iou_thres=0.45, topk=100))
    swap_efficientnms(model)     # EfficientNMS node -> standard ops

`model` is an onnx.ModelProto with the raw output of export_onnx.py. Afterwards it has five outputs,
B images, topk rows each, best score first, rows beyond num_dets zero (indices -1):
    num_dets     (B, 1) int32
    det_indices  (B, topk, 3) int32     image, class, row of the raw output
    det_boxes    (B, topk, 4) float32   x1 y1 x2 y2
    det_pose     (B, topk, 3K) float32  x y conf a keypoint
    det_scores   (B, topk, 1) float32

Both forms keep the boxes that utils/pose/nms.py keeps: a box has its best class, goes if its score
is not above conf_thres, or if its IoU with a kept better box of its class is above iou_thres.

efficientnms: TensorRT's plugin, 8.5 to 10.15. static: standard ops of static shapes, for every
runtime; docs/nms.md says how it works and what its bounds mean.
"""

from typing import Any, List, NamedTuple, Optional, Tuple

import numpy as np

from utils.errors import InputError
from utils.pose.nms import below

FORMS = ("efficientnms", "static")
PLUGIN = "EfficientNMS_ONNX_TRT"
OUTPUTS = ("num_dets", "det_indices", "det_boxes", "det_pose", "det_scores")
MAX_TOPK = 3840  # the most that TensorRT's TopK layer takes
# (from this conf_thres on, candidates, steps); docs/nms.md tells how often more are needed
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
        if steps < 1 or steps % 2 == 0:
            raise InputError("`nms_steps` %d: expected an odd number" % steps)
        return self._replace(candidates=candidates, steps=steps)


class Nodes:
    """Nodes under construction; `prefix` keeps their names apart from those in the graph."""

    def __init__(self, prefix: str, opset: int):
        self.prefix, self.nodes, self.constants = prefix, [], []  # type: str, List, List
        self.opset = opset

    def op(self, kind: str, *inputs: str, outputs: int = 1, domain: str = "", **attributes: Any):
        """Append a node; the name of its output, or a list of them."""
        from onnx import helper

        if kind.startswith("Reduce") and "axes" in attributes and self.opset >= 18:
            inputs = (*inputs, self.const(attributes.pop("axes"), np.int64))  # an input since then
        number = len(self.nodes)
        names = ["%s%d_%s%s" % (self.prefix, number, kind, "_b" * i) for i in range(outputs)]
        name = "%s%d" % (self.prefix, number)
        node = helper.make_node(kind, inputs, names, name=name, domain=domain, **attributes)
        self.nodes.append(node)
        return names[0] if outputs == 1 else names

    def const(self, value: Any, dtype: Any = np.float32) -> str:
        from onnx import numpy_helper

        name = "%sc%d" % (self.prefix, len(self.constants))
        self.constants.append(numpy_helper.from_array(np.asarray(value, dtype), name))
        return name

    def slice(self, x: str, start: int, stop: int, *, axis: int = 1) -> str:
        ints = [self.const([v], np.int64) for v in (start, stop, axis)]
        return self.op("Slice", x, *ints)

    def cast(self, x: str, dtype: str) -> str:
        from onnx import TensorProto

        return self.op("Cast", x, to=getattr(TensorProto, dtype))

    def turn(self, x: str) -> str:
        """(B, a, b) -> (B, b, a)."""
        return self.op("Transpose", x, perm=[0, 2, 1])

    def take(self, x: str, index: str, rows: int) -> str:
        """Columns of (B, rows, n) at index (B, 1, k) -> (B, rows, k)."""
        if rows > 1:
            index = self.op("Add", index, self.const(np.zeros((1, rows, 1)), np.int64))
        return self.op("GatherElements", x, index, axis=2)


class _Kept(NamedTuple):
    """Names of the tensors of the kept boxes, all (B, 1, topk)."""

    index: str  # type: ignore[assignment]  # int64 column of `values`, 0 where not found
    score: str
    cls: Optional[str]  # int64; None where there is one class
    found: str  # bool


def add_nms(model: Any, nc: int, nms: Nms, *, keep_raw: bool = False) -> Nms:
    """Put NMS behind the raw output of a ModelProto, in place.

    Returns the settings as applied: no more candidates than there are boxes.

    Args:
        model: one output (B, N, 5 + nc + 3K) float32, B and N static or dynamic.
        keep_raw: leave it as the last output, to compare with.

    Raises InputError if the output is no such thing or the settings do not fit it.
    """
    from onnx import TensorProto, helper

    nms = nms.resolved()
    graph = model.graph
    batch, rows, width = _raw_shape(graph, nc)
    if rows is not None:
        if nms.topk > rows:
            raise InputError(
                "`topk_all` %d: at this size the model predicts %d boxes" % (nms.topk, rows)
            )
        nms = nms._replace(candidates=min(nms.candidates, rows))
    n = Nodes(free_prefix(graph, "nms"), opset_of(model))
    values = _values(graph, n, keep_raw)
    images = _image_numbers(n, batch, values)
    if nms.form == "static":
        kept = _static_form(n, values, nc, width=width, nms=nms, pad=rows is None)
    else:
        kept = _plugin_form(n, values, nc, nms=nms, images=images)
    names = _outputs(n, values, nc, width=width, kept=kept, images=images)
    b = graph.output[0].type.tensor_type.shape.dim[0]
    b = b.dim_value or b.dim_param
    kinds = dict.fromkeys(OUTPUTS, TensorProto.FLOAT)
    kinds["num_dets"] = kinds["det_indices"] = TensorProto.INT32
    k = nms.topk
    shapes = ([b, 1], [b, k, 3], [b, k, 4], [b, k, width - 5 - nc], [b, k, 1])
    raw = list(graph.output) if keep_raw else []
    del graph.output[:]
    for name, shape in zip(OUTPUTS, shapes):
        graph.output.append(helper.make_tensor_value_info(name, kinds[name], shape))
    graph.output.extend(raw)
    for node in n.nodes:  # the five results get their published names
        for i, name in enumerate(node.output):
            node.output[i] = names.get(name, name)
    graph.node.extend(n.nodes)
    graph.initializer.extend(n.constants)
    if nms.form == "efficientnms" and not any(o.domain == "TRT" for o in model.opset_import):
        model.opset_import.append(helper.make_opsetid("TRT", 1))
    return nms


def has_efficientnms(model: Any) -> bool:
    """Whether the ModelProto holds TensorRT's NMS plugin."""
    return any(node.op_type == PLUGIN for node in model.graph.node)


def swap_efficientnms(model: Any, candidates: int = 0, steps: int = 0) -> None:
    """Replace the EfficientNMS node of a ModelProto by the static form, in place.

    The nodes around it stay: the static form writes what the plugin writes, each image's rows
    together. Thresholds and topk are the node's. `candidates`, `steps`: see Nms.

    Raises InputError if there is not exactly one such node, or its inputs are of unknown shape.
    """
    from onnx import helper

    graph = model.graph
    places = [i for i, node in enumerate(graph.node) if node.op_type == PLUGIN]
    if len(places) != 1:
        raise InputError("%d %s nodes in the model, expected 1" % (len(places), PLUGIN))
    node = graph.node[places[0]]
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    # The plugin keeps scores and drops overlaps that equal its thresholds; see _plugin_form.
    conf = np.nextafter(np.float32(attributes.get("score_threshold", 0.5)), np.float32(-1))
    iou = np.nextafter(np.float32(attributes.get("iou_threshold", 0.5)), np.float32(-1))
    topk = int(attributes.get("max_output_boxes_per_class", 100))
    nms = Nms("static", max(float(conf), 0.0), max(float(iou), 0.0), topk, candidates, steps)
    nms = nms.resolved()
    n = Nodes(free_prefix(graph, "swap"), opset_of(model))
    boxes, scores = (n.turn(name) for name in node.input)  # (B, 4, N), (B, nc, N)
    best = n.op("ReduceMax", scores, axes=[1], keepdims=1)
    cls = n.op("ArgMax", scores, axis=1, keepdims=1)
    center = bool(attributes.get("center_point_box", 0))
    # always padded: the number of boxes is not declared inside the graph
    kept = _select(n, boxes, 4, score=best, cls=cls, nms=nms, center=center, pad=True)
    images = _image_numbers(n, None, scores)
    table = _index_table(n, kept, images)  # (B, topk, 3), -1 where not found
    rows = _repeat_last(n, table, kept, topk=nms.topk)
    n.op("Reshape", rows, n.const([-1, 3], np.int64))
    n.nodes[-1].output[0] = node.output[0]
    new = list(graph.node[: places[0]]) + n.nodes + list(graph.node[places[0] + 1 :])
    del graph.node[:]
    graph.node.extend(new)
    graph.initializer.extend(n.constants)
    for i, opset in enumerate(model.opset_import):
        if opset.domain == "TRT":
            del model.opset_import[i]
            break
    for entry in model.metadata_props:
        if entry.key == "nms":
            entry.value = '"static"'


def _raw_shape(graph: Any, nc: int) -> Tuple[Optional[int], Optional[int], int]:
    """(B, N, columns) of the raw output, None where dynamic. Raises InputError."""
    from onnx import TensorProto

    kind = graph.output[0].type.tensor_type if len(graph.output) == 1 else None
    dims = [d.dim_value or None for d in kind.shape.dim] if kind is not None else []
    width = dims[2] if len(dims) == 3 else None
    if kind is None or width is None or width < 5 + nc + 3 or (width - 5 - nc) % 3:
        raise InputError(
            "`end2end`: this is not the raw output of a YOLO-Pose head: %s"
            % ", ".join("%s %s" % (o.name, dims_of(o)) for o in graph.output)
        )
    if kind.elem_type != TensorProto.FLOAT:
        raise InputError("`end2end`: the raw output %s is not float32" % graph.output[0].name)
    return dims[0], dims[1], width


def dims_of(value: Any) -> List:
    """Dimensions of an input or output: numbers, names, or `?`."""
    return [d.dim_value or d.dim_param or "?" for d in value.type.tensor_type.shape.dim]


def opset_of(model: Any) -> int:
    """Version of the standard operators that a ModelProto uses."""
    return next(o.version for o in model.opset_import if o.domain in ("", "ai.onnx"))


def free_prefix(graph: Any, word: str) -> str:
    """`word/`, or `word2/`, ... if names in the graph begin with that."""
    taken = [name for node in graph.node for name in [node.name, *node.output]]
    taken += [i.name for i in graph.initializer]
    number = 1
    while True:
        prefix = "%s%s/" % (word, number if number > 1 else "")
        if not any(name.startswith(prefix) for name in taken):
            return prefix
        number += 1


def _values(graph: Any, n: Nodes, keep_raw: bool) -> str:
    """The predictions as (B, 5 + nc + 3K, N).

    The decode computes them so; the transposition behind it, 6 MB for s6 at 640, is dropped.
    """
    raw = graph.output[0].name
    for i, node in enumerate(graph.node):
        turned = raw in node.output and node.op_type == "Transpose"
        if turned and list(node.attribute[0].ints) == [0, 2, 1]:
            values = node.input[0]
            if not keep_raw:
                del graph.node[i]
            return values
    return n.turn(raw)


def _image_numbers(n: Nodes, batch: Optional[int], values: str) -> str:
    """(B, 1, 1) int64: 0 to B - 1; `batch` None: read at run time off the shape of `values`."""
    if batch is not None:
        return n.const(np.arange(batch).reshape(-1, 1, 1), np.int64)
    size = n.op("Gather", n.op("Shape", values), n.const(0, np.int64))
    numbers = n.op("Range", n.const(0, np.int64), size, n.const(1, np.int64))
    return n.op("Reshape", numbers, n.const([-1, 1, 1], np.int64))


def _class_scores(n: Nodes, values: str, nc: int) -> str:
    """Objectness x class probability, (B, nc, N)."""
    return n.op("Mul", n.slice(values, 4, 5), n.slice(values, 5, 5 + nc))


def _corners(n: Nodes, boxes: str) -> Tuple[str, str]:
    """(B, 4, n) cx cy w h -> (B, 2, n) top left, (B, 2, n) bottom right."""
    xy, wh = n.slice(boxes, 0, 2), n.slice(boxes, 2, 4)
    half = n.op("Mul", wh, n.const(0.5))
    return n.op("Sub", xy, half), n.op("Add", xy, half)


def _finite(n: Nodes, rows: str) -> str:
    """(B, R, n) -> (B, 1, n) bool: no inf or NaN, which an FP16 network that overflows says.

    Either makes the mean inf or NaN, and neither is less than a number.
    """
    mean = n.op("ReduceMean", rows, axes=[1], keepdims=1)
    return n.op("Less", n.op("Abs", mean), n.const(1e30))


def _static_form(n: Nodes, values: str, nc: int, *, width: int, nms: Nms, pad: bool) -> _Kept:
    if nc == 1:
        score, cls = _class_scores(n, values, nc), None
    else:  # as utils/pose/nms.py: the best class, times objectness
        probability = n.slice(values, 5, 5 + nc)
        best = n.op("ReduceMax", probability, axes=[1], keepdims=1)
        score = n.op("Mul", n.slice(values, 4, 5), best)
        cls = n.op("ArgMax", probability, axis=1, keepdims=1)
    return _select(n, values, width, score=score, cls=cls, nms=nms, center=True, pad=pad)


def _select(
    n: Nodes, values: str, rows: int, *, score: str, cls: Optional[str], nms: Nms, center: bool,
    pad: bool,
) -> _Kept:  # fmt: skip
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
    found = n.op("And", found, _finite(n, chosen))  # nobody is there
    if center:
        low, high = _corners(n, chosen)
    else:
        low, high = n.slice(chosen, 0, 2), n.slice(chosen, 2, 4)
    area = n.op("ReduceProd", n.op("Sub", high, low), axes=[1], keepdims=1)
    sides = []
    for axis in (0, 1):
        near, far = n.slice(low, axis, axis + 1), n.slice(high, axis, axis + 1)
        overlap = n.op("Sub", n.op("Min", far, n.turn(far)), n.op("Max", near, n.turn(near)))
        sides.append(n.op("Relu", overlap))
    inter = n.op("Mul", *sides)
    union = n.op("Sub", n.op("Add", area, n.turn(area)), inter)
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
    return _Kept(
        n.op("Where", found, n.take(index, place, 1), zero_int),
        n.take(top, place, 1),
        None if cls is None else n.take(cls, place, 1),
        found,
    )


def _plugin_form(n: Nodes, values: str, nc: int, *, nms: Nms, images: str) -> _Kept:
    """TensorRT's plugin, and each image's share of its rows.

    The plugin writes (B * topk, 3) rows image, class, box: those of different images interleave
    as their blocks happen to run, each image's own in order of score; the last row is repeated
    to the end, and all are -1 if nothing was found.
    """
    # The plugin tests >=, we test >: its thresholds are the next float32 up.
    up = np.float32(2)
    conf = np.nextafter(np.float32(nms.conf_thres), up)
    iou = np.nextafter(below(nms.iou_thres), up)
    low, high = _corners(n, n.slice(values, 0, 4))
    boxes = n.turn(n.op("Concat", low, high, axis=1))
    real = _finite(n, values)  # else nobody is there
    if nc > 1:  # only the best class of a box, or the plugin would keep a box for several
        best = n.op("ArgMax", n.slice(values, 5, 5 + nc), axis=1, keepdims=1)
        numbers = n.const(np.arange(nc).reshape(1, nc, 1), np.int64)
        real = n.op("And", real, n.op("Equal", best, numbers))
    scores = n.op("Where", real, _class_scores(n, values, nc), n.const(0.0))
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
    return _Kept(index, top, None if nc == 1 else cls, found)


def _index_table(n: Nodes, kept: _Kept, images: str) -> str:
    """(B, topk, 3) int32 image, class, box; -1 where not found."""
    index = n.cast(kept.index, "INT32")
    zero = n.op("Mul", index, n.const(0, np.int32))
    cls = zero if kept.cls is None else n.cast(kept.cls, "INT32")
    table = n.op("Concat", n.op("Add", zero, n.cast(images, "INT32")), cls, index, axis=1)
    return n.turn(n.op("Where", kept.found, table, n.const(-1, np.int32)))


def _repeat_last(n: Nodes, table: str, kept: _Kept, *, topk: int) -> str:
    """Fill each image's (B, topk, 3) table as the plugin does, with its last row."""
    count = n.op("ReduceL1", n.cast(kept.found, "FLOAT"), axes=[2], keepdims=1)  # (B, 1, 1)
    last = n.op("Max", n.op("Sub", count, n.const(1.0)), n.const(0.0))
    place = n.op("Min", n.const(np.arange(topk).reshape(1, topk, 1)), last)
    place = n.op("Add", n.cast(place, "INT64"), n.const(np.zeros((1, 1, 3)), np.int64))
    return n.op("GatherElements", table, place, axis=1)


def _outputs(n: Nodes, values: str, nc: int, *, width: int, kept: _Kept, images: str) -> dict:
    """The five results: {name so far: published name}."""
    zero = n.const(0.0)
    rows = n.take(values, kept.index, width)
    rows = n.op("Where", kept.found, rows, zero)
    boxes = n.op("Concat", *_corners(n, n.slice(rows, 0, 4)), axis=1)
    count = n.op("ReduceL1", n.cast(kept.found, "FLOAT"), axes=[2], keepdims=0)
    results = (
        n.cast(count, "INT32"),
        _index_table(n, kept, images),
        n.turn(boxes),
        n.turn(n.slice(rows, 5 + nc, width)),
        n.turn(n.op("Where", kept.found, kept.score, zero)),
    )
    return dict(zip(results, OUTPUTS))
