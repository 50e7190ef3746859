"""A small network with the head of YOLOv8/11-pose, made with onnx alone, in each of its layouts.

Stem, a split block, attention with reshapes, two levels; the box is an integral over a softmax
(DFL). Random weights, lively enough that scores differ.
"""

from pathlib import Path

import numpy as np

BINS, STRIDES, CHANNELS = 8, (8, 16), 16
ROWS_AFTER_NMS = 300


class Builder:
    """Nodes and constants under construction."""

    def __init__(self, seed, opset, half):
        self.rng = np.random.default_rng(seed)
        self.nodes, self.constants = [], []
        self.opset, self.dtype = opset, np.float16 if half else np.float32

    def const(self, value, dtype=None):
        from onnx import numpy_helper

        name = "c%d" % len(self.constants)
        value = np.asarray(value, dtype or self.dtype)
        self.constants.append(numpy_helper.from_array(value, name))
        return name

    def ints(self, *values):
        return self.const(values, np.int64)

    def op(self, kind, *inputs, outputs=1, **attributes):
        from onnx import helper

        names = ["%s%d_%d" % (kind, len(self.nodes), i) for i in range(outputs)]
        self.nodes.append(helper.make_node(kind, inputs, names, name=names[0], **attributes))
        return names[0] if outputs == 1 else names

    def conv(self, x, c_in, c_out, k=1, s=1, act=True, gain=1.0, bias=0.0):
        weight = gain * self.rng.standard_normal((c_out, c_in, k, k)) / np.sqrt(c_in * k * k)
        # other exporters let equal biases share one tensor behind an Identity
        bias = self.op("Identity", self.const(bias + 0.1 * self.rng.standard_normal(c_out)))
        x = self.op("Conv", x, self.const(weight), bias, kernel_shape=[k, k], strides=[s, s],
                    pads=[k // 2] * 4)  # fmt: skip
        return self.op("Mul", x, self.op("Sigmoid", x)) if act else x

    def slice(self, x, start, stop, axis):
        return self.op("Slice", x, self.ints(start), self.ints(stop), self.ints(axis))

    def split(self, x, axis=1):
        if self.opset >= 18:
            return self.op("Split", x, outputs=2, axis=axis, num_outputs=2)
        return self.op("Split", x, outputs=2, axis=axis)

    def attention(self, x, hw, batch):
        """x + weights V: the shape of the features is in the graph, as exporters write it."""
        c = CHANNELS
        flat = [batch, c, hw[0] * hw[1]] if hw else [0, c, -1]
        q, k, v = (self.op("Reshape", self.conv(x, c, c, act=False), self.ints(*flat))
                   for _ in range(3))  # fmt: skip
        scores = self.op("MatMul", self.op("Transpose", q, perm=[0, 2, 1]), k)
        scores = self.op("Softmax", self.op("Mul", scores, self.const(0.25)), axis=-1)
        found = self.op("MatMul", v, self.op("Transpose", scores, perm=[0, 2, 1]))
        if hw:
            return self.op("Add", x, self.op("Reshape", found, self.ints(batch, c, *hw)))
        return self.op("Add", x, self.op("Reshape", found, self.op("Shape", x)))

    def grid(self, x, hw, stride):
        """(1, 2, h w) centres of the cells, in cells, and (1, 1, h w) their stride."""
        if hw:
            y, x = np.mgrid[: hw[0], : hw[1]] + 0.5
            centers = self.const(np.stack([x.ravel(), y.ravel()])[None])
            return centers, self.const(np.full((1, 1, hw[0] * hw[1]), stride))
        from onnx import numpy_helper

        hw = self.slice(self.op("Shape", x), 2, 4, 0)
        one = self.op("ConstantOfShape", self.op("Concat", self.ints(1, 1), hw, axis=0),
                      value=numpy_helper.from_array(np.ones(1, self.dtype)))  # fmt: skip
        axes = [self.op("Sub", self.op("CumSum", one, self.const(axis, np.int64)), self.const(0.5))
                for axis in (3, 2)]  # fmt: skip
        centers = self.op("Reshape", self.op("Concat", *axes, axis=1), self.ints(1, 2, -1))
        strides = self.op("Mul", one, self.const(float(stride)))
        return centers, self.op("Reshape", strides, self.ints(1, 1, -1))


def make_foreign(  # noqa: PLR0917
    path: Path,
    form="turned",
    nc=1,
    kpt_shape=(17, 3),
    hw=(128, 128),
    batch=1,
    opset=13,
    half=False,
    seed=0,
    keep_order=True,
    extra_output=False,
    metadata=None,
):
    """Write the network.

    Args: form: turned, nms (300 rows) or rows (as YOLOv7-w6-pose has them, with objectness).
        hw None: dynamic. metadata: {key: text or, to leave it out, None}.
    """
    import onnx
    from onnx import TensorProto, helper

    b = Builder(seed, opset, half)
    nkpt, values = kpt_shape
    x = b.op("Cast", "images", to=TensorProto.FLOAT16) if half else "images"
    x = b.conv(b.conv(x, 3, 8, 3, 2), 8, CHANNELS, 3, 2)
    left, right = b.split(x)
    x = b.op("Concat", left, right, b.conv(right, CHANNELS // 2, CHANNELS // 2, 3), axis=1)
    fine = b.conv(x, CHANNELS * 3 // 2, CHANNELS, 3, 2)
    coarse = b.conv(fine, CHANNELS, CHANNELS, 3, 2)
    small = None if hw is None else (hw[0] // 16, hw[1] // 16)
    coarse = b.attention(coarse, small, batch)
    parts, grids, steps = [[], [], []], [], []
    for level, stride in zip((fine, coarse), STRIDES):
        widths = (4 * BINS, nc + (form == "rows"), nkpt * values)
        for found, width, gain in zip(parts, widths, (2.0, 12.0, 1.0)):
            y = b.conv(b.conv(level, CHANNELS, CHANNELS, 3), CHANNELS, width, act=False, gain=gain)
            found.append(b.op("Reshape", y, b.ints(0, width, -1)))
        cells = None if hw is None else (hw[0] // stride, hw[1] // stride)
        for found, made in zip((grids, steps), b.grid(level, cells, stride)):
            found.append(made)
    box, score, points = (b.op("Concat", *found, axis=2) for found in parts)
    if hw is None:
        grid, step = b.op("Concat", *grids, axis=2), b.op("Concat", *steps, axis=2)
    else:  # exporters fold what is constant
        made = {c.name: onnx.numpy_helper.to_array(c) for c in b.constants}
        grid, step = (b.const(np.concatenate([made[n] for n in g], 2)) for g in (grids, steps))

    # the box: expected distance of each side from the cell's centre
    box = b.op("Transpose", b.op("Reshape", box, b.ints(0, 4, BINS, -1)), perm=[0, 2, 1, 3])
    bins = b.const(np.arange(BINS).reshape(1, BINS, 1, 1))
    box = b.op("Conv", b.op("Softmax", box, axis=1), bins, kernel_shape=[1, 1])
    box = b.op("Reshape", box, b.ints(0, 4, -1))
    low = b.op("Sub", grid, b.slice(box, 0, 2, 1))
    high = b.op("Add", grid, b.slice(box, 2, 4, 1))
    center = b.op("Div", b.op("Add", low, high), b.const(2.0))
    if form == "nms":
        box = b.op("Mul", b.op("Concat", low, high, axis=1), step)
    else:
        box = b.op("Mul", b.op("Concat", center, b.op("Sub", high, low), axis=1), step)
    points = b.op("Reshape", points, b.ints(0, nkpt, values, -1))
    xy = b.op("Add", b.op("Mul", b.slice(points, 0, 2, 2), b.const(2.0)), grid)
    parts = [b.op("Mul", xy, step)]
    if values == 3:
        parts.append(b.op("Sigmoid", b.slice(points, 2, 3, 2)))
    points = b.op("Concat", *parts, axis=2) if values == 3 else parts[0]
    points = b.op("Reshape", points, b.ints(0, nkpt * values, -1))
    x = b.op("Concat", box, b.op("Sigmoid", score), points, axis=1)
    if form == "nms":
        x = _best_rows(b, x, nc, nkpt * values)
    elif form == "rows":
        x = b.op("Transpose", x, perm=[0, 2, 1])
    x = b.op("Cast", x, to=TensorProto.FLOAT) if half else x
    b.nodes.append(helper.make_node("Identity", [x], ["output0"], name="last"))
    if not keep_order:
        b.nodes.insert(0, b.nodes.pop())

    head = 6 if form == "nms" else 4 + nc + (form == "rows")
    width = head + nkpt * values
    count = sum(hw[0] * hw[1] // s**2 for s in STRIDES) if hw else "anchors"
    dims = {"turned": [width, count], "rows": [count, width], "nms": [ROWS_AFTER_NMS, width]}[form]
    if hw is None and form == "turned":
        dims[0] = "Concatoutput0_dim_1"
    h, w = hw or ("height", "width")
    size = "batch" if batch is None else batch
    outputs = [helper.make_tensor_value_info("output0", TensorProto.FLOAT, [size, *dims])]
    if extra_output:
        b.nodes.append(helper.make_node("Identity", ["output0"], ["output1"]))
        outputs.append(helper.make_tensor_value_info("output1", TensorProto.FLOAT, [size, *dims]))
    entry = helper.make_tensor_value_info("images", TensorProto.FLOAT, [size, 3, h, w])
    graph = helper.make_graph(b.nodes, "foreign", [entry], outputs, b.constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    model.ir_version = 8
    known = {
        "task": "pose",
        "names": str({i: "class%d" % i if i else "person" for i in range(nc)}),
        "stride": str(STRIDES[-1]),
        "imgsz": str(list(hw or (128, 128))),
        "kpt_shape": str(list(kpt_shape)),
        "end2end": str(form == "nms"),
        "args": "{'nms': None, 'half': False, 'quantize': %s}" % (16 if half else None),
        **(metadata or {}),
    }
    for key, value in known.items():
        if value is not None:
            item = model.metadata_props.add()
            item.key, item.value = key, value
    onnx.save(model, str(path))
    return path


def _best_rows(b, x, nc, width):
    """(1, 4 + nc + width, A) corners, scores, points -> (1, 300, 6 + width), best score first."""
    x = b.op("Transpose", x, perm=[0, 2, 1])
    scores = b.slice(x, 4, 4 + nc, 2)
    if b.opset >= 18:
        best = b.op("ReduceMax", scores, b.ints(2), keepdims=0)
    else:
        best = b.op("ReduceMax", scores, axes=[2], keepdims=0)
    best, index = b.op("TopK", best, b.ints(ROWS_AFTER_NMS), outputs=2, axis=1)
    index = b.op("Reshape", index, b.ints(-1))
    rows = b.op("Gather", x, index, axis=1)
    cls = b.op("ArgMax", b.slice(rows, 4, 4 + nc, 2), axis=2, keepdims=1)
    cls = b.op("Cast", cls, to=10 if b.dtype == np.float16 else 1)
    points = b.slice(rows, 4 + nc, 4 + nc + width, 2)
    score = b.op("Reshape", best, b.ints(1, -1, 1))
    return b.op("Concat", b.slice(rows, 0, 4, 2), score, cls, points, axis=2)
