"""Embedded NMS of an ONNX model: two interchangeable forms, and the swap between them.

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

from typing import TYPE_CHECKING, Any, Optional, Tuple

import numpy as np

from utils.errors import InputError
from utils.graph.nms_forms import (
    PLUGIN,
    Kept,
    Nms,
    corners,
    plugin_form,
    select,
    static_form,
)
from utils.graph.nodes import Nodes, dims_of, free_prefix, opset_of

if TYPE_CHECKING:
    from onnx import ModelProto

OUTPUTS = ("num_dets", "det_indices", "det_boxes", "det_pose", "det_scores")


def add_nms(model: "ModelProto", nc: int, nms: Nms, *, keep_raw: bool = False) -> Nms:
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
        kept = static_form(n, values, nc, width=width, nms=nms, pad=rows is None)
    else:
        kept = plugin_form(n, values, nc, nms=nms, images=images)
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


def has_efficientnms(model: "ModelProto") -> bool:
    """Whether the ModelProto holds TensorRT's NMS plugin."""
    return any(node.op_type == PLUGIN for node in model.graph.node)


def swap_efficientnms(model: "ModelProto", candidates: int = 0, steps: int = 0) -> None:
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
    # The plugin keeps scores and drops overlaps that equal its thresholds; see plugin_form.
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
    kept = select(n, boxes, 4, score=best, cls=cls, nms=nms, center=center, pad=True)
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


def _index_table(n: Nodes, kept: Kept, images: str) -> str:
    """(B, topk, 3) int32 image, class, box; -1 where not found."""
    index = n.cast(kept.index, "INT32")
    zero = n.op("Mul", index, n.const(0, np.int32))
    cls = zero if kept.cls is None else n.cast(kept.cls, "INT32")
    table = n.op("Concat", n.op("Add", zero, n.cast(images, "INT32")), cls, index, axis=1)
    return n.turn(n.op("Where", kept.found, table, n.const(-1, np.int32)))


def _repeat_last(n: Nodes, table: str, kept: Kept, *, topk: int) -> str:
    """Fill each image's (B, topk, 3) table as the plugin does, with its last row."""
    count = n.op("ReduceL1", n.cast(kept.found, "FLOAT"), axes=[2], keepdims=1)  # (B, 1, 1)
    last = n.op("Max", n.op("Sub", count, n.const(1.0)), n.const(0.0))
    place = n.op("Min", n.const(np.arange(topk).reshape(1, topk, 1)), last)
    place = n.op("Add", n.cast(place, "INT64"), n.const(np.zeros((1, 1, 3)), np.int64))
    return n.op("GatherElements", table, place, axis=1)


def _outputs(n: Nodes, values: str, nc: int, *, width: int, kept: Kept, images: str) -> dict:
    """The five results: {name so far: published name}."""
    zero = n.const(0.0)
    rows = n.take(values, kept.index, width)
    rows = n.op("Where", kept.found, rows, zero)
    boxes = n.op("Concat", *corners(n, n.slice(rows, 0, 4)), axis=1)
    count = n.op("ReduceL1", n.cast(kept.found, "FLOAT"), axes=[2], keepdims=0)
    results = (
        n.cast(count, "INT32"),
        _index_table(n, kept, images),
        n.turn(boxes),
        n.turn(n.slice(rows, 5 + nc, width)),
        n.turn(n.op("Where", kept.found, kept.score, zero)),
    )
    return dict(zip(results, OUTPUTS))
