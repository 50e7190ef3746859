"""A small YOLO-Pose-like network made with onnx alone: every pattern a quantiser must know."""

import json
from pathlib import Path

import numpy as np

CHANNELS, STRIDE, ROWS = 8, 8, 57


def make_small_net(path: Path, batch=1, hw=(64, 64), opset=13, seed=0, relu=False, **metadata):
    """Conv + SiLU, residual, depthwise, concat, max-pool, resize, a head and its decode.

    Static, or dynamic with batch or hw None. Output (B, h w / 64, 57), pixels. Objectness is
    high in one cell of eight.
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(seed)
    nodes, constants = [], []

    def const(name, value):
        constants.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def op(kind, *inputs, name, **attributes):
        nodes.append(helper.make_node(kind, inputs, [name + "_out"], name=name, **attributes))
        return name + "_out"

    def conv(x, name, c_in, c_out, k=1, s=1, g=1, act=True, bias=None):
        fan = c_in // g * k * k
        w = (rng.standard_normal((c_out, c_in // g, k, k)) / np.sqrt(fan)).astype(np.float32)
        b = 0.1 * rng.standard_normal(c_out) if bias is None else bias
        x = op("Conv", x, const(name + ".weight", w), const(name + ".bias", b.astype(np.float32)),
               name=name, kernel_shape=[k, k], strides=[s, s], pads=[k // 2] * 4,
               group=g)  # fmt: skip
        if act and relu:
            return op("Relu", x, name=name + "/relu")
        return op("Mul", x, op("Sigmoid", x, name=name + "/s"), name=name + "/m") if act else x

    c = CHANNELS
    x = conv("input", "stem", 3, c, 3, 2)
    down = conv(x, "down", c, c, 3, 2)
    y = conv(conv(down, "block1", c, c), "block2", c, c, 3)
    y = op("Add", down, y, name="residual")
    pooled = op("MaxPool", y, name="pool", kernel_shape=[3, 3], strides=[1, 1], pads=[1] * 4)
    small = conv(y, "small", c, c, 3, 2)
    up = op(
        "Resize",
        small,
        "",
        const("scales", np.array([1, 1, 2, 2], np.float32)),
        name="up",
        mode="nearest",
        coordinate_transformation_mode="asymmetric",
        nearest_mode="floor",
    )
    x = conv(op("Concat", pooled, up, name="cat", axis=1), "fuse", 2 * c, c, 3, 2)
    depth = conv(x, "depth", c, c, 3, g=c)
    bias = 0.3 * rng.standard_normal(ROWS)
    bias[4], bias[5] = -1.0, 4.0
    x = conv(depth, "head", c, ROWS, act=False, bias=bias)
    shape = const("rows", np.array([0, ROWS, -1], np.int64))
    x = op("Reshape", x, shape, name="decode/rows")
    split = const("split", np.array([2, 2, 2, ROWS - 6], np.int64))
    names = ["decode/xy", "decode/wh", "decode/conf", "decode/kpt"]
    nodes.append(helper.make_node("Split", [x, split], names, name="decode/split", axis=1))
    scale = const("sixty", np.float32(60))
    xy = op("Mul", op("Sigmoid", names[0], name="decode/s1"), scale, name="decode/m1")
    wh = op("Mul", op("Sigmoid", names[1], name="decode/s2"), scale, name="decode/m2")
    conf = op("Sigmoid", names[2], name="decode/s3")
    kpt = op("Mul", names[3], const("eight", np.float32(8)), name="decode/m3")
    x = op("Concat", xy, wh, conf, kpt, name="decode/cat", axis=1)
    nodes.append(helper.make_node("Transpose", [x], ["output"], name="decode/t", perm=[0, 2, 1]))
    h, w = hw or ("height", "width")
    b = batch or "batch"
    n = h * w // STRIDE**2 if hw else "predictions"
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [b, 3, h, w])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, [b, n, ROWS])],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    model.ir_version = 7
    values = {"task": "pose", "names": ["person"], "nkpt": 17, "nc": 1, "stride": 64}
    for key, value in {**values, "imgsz": list(hw or (64, 64)), **metadata}.items():
        entry = model.metadata_props.add()
        entry.key, entry.value = key, json.dumps(value)
    onnx.checker.check_model(model)
    onnx.save(model, str(path))
    return path


def run_onnx(model, images):
    """Outputs of a ModelProto or a file."""
    import onnxruntime

    data = str(model) if isinstance(model, Path) else model.SerializeToString()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: images})
