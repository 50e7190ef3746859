"""FP16 weights whose rounding errors cancel: as many bits, a fraction of the error.

    prepare(model, sample_images((640, 640)))
    to_fp16(model)                                # utils/graph/fp16.py

Rounding each weight of a convolution to the nearest FP16 leaves an error that is the same at every
pixel, and it is most of what FP16 costs a keypoint. Rounded one after the other instead, with the
error so far put upon the weights that are still to come, by how their inputs go together, what is
left is mostly noise of no direction (optimal brain quantisation: Frantar et al. 2022,
arXiv 2208.11580 and 2210.17323). Biases take part. A few images are enough.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, Iterable, List, Sequence, Tuple

import numpy as np

from utils.errors import InputError, one_line
from utils.graph.analysis import Graph, attribute, with_input_hw

if TYPE_CHECKING:
    from onnx import ModelProto

COLUMNS = 1152  # weights of an output channel that are rounded as one; the cost grows with its cube
BLOCK = 64  # columns between updates of all later ones
POSITIONS = 3000  # of each image, where inputs of a convolution are looked at
AT_ONCE = 16  # convolutions whose inputs are in memory
DAMPING = 1e-4  # of the mean square input: images are few
LARGEST = float(np.finfo(np.float16).max)
# what passes pixels on unchanged
MOVING = ("Slice", "Concat", "Reshape", "Transpose", "SpaceToDepth", "Identity")
PREFIX = "half/"  # of everything that is put into the graph
SAMPLE_IMAGES = Path(__file__).resolve().parents[2] / "data" / "images"


def prepare(model: "ModelProto", images: Sequence[np.ndarray], *, progress: bool = False) -> None:
    """Get a float32 ONNX ready for FP16, in place: exact_pixels, then round_weights.

    It computes the same, in float32 and in FP16, of images with 8 bits a colour.

    Args: progress: show a bar on a terminal.

    Raises InputError if ONNX Runtime is not there or cannot run the model.
    """
    exact_pixels(model)
    round_weights(model, images, progress=progress)


def sample_images(hw: Tuple[int, int], more: Sequence[str] = ()) -> List[np.ndarray]:
    """(1, 3, height, width) float32 of the images in data/images, and of further files.

    Raises InputError if there are none.
    """
    from utils.dataset.images import IMAGE_SUFFIXES
    from utils.quantization.images import read_batch

    files = [
        p.resolve() for p in sorted(SAMPLE_IMAGES.glob("*")) if p.suffix.lower() in IMAGE_SUFFIXES
    ]
    files += [p for p in (Path(name).resolve() for name in more) if p not in files]
    if not files:
        raise InputError("no images in %s, on which rounding errors could cancel" % SAMPLE_IMAGES)
    return [read_batch([str(file)], hw, letterboxed=True) for file in files]


def exact_pixels(model: "ModelProto") -> bool:
    """Let a float32 network start with k / 256 instead of k / 255, in place; whether it could.

    A pixel k / 255 is no FP16 number, and its error is the same wherever the brightness is; k / 256
    is one. Puts round(255 x) / 256 behind the input and 256 / 255 into the first convolutions. Not
    done where something else than convolutions reads the pixels.
    """
    from onnx import helper, numpy_helper

    graph = Graph(model)
    entry = graph.inputs[0]
    first = _first_convs(graph, entry)
    if not first or any(node.name == PREFIX + "pixels" for node in graph.nodes):
        return False
    for name in {conv.input[1] for conv in first}:
        weights = numpy_helper.to_array(graph.constants[name]).astype(np.float64) * (256 / 255)
        graph.constants[name].CopyFrom(numpy_helper.from_array(weights.astype(np.float32), name))
    for node in graph.readers[entry]:
        for i, name in enumerate(node.input):
            if name == entry:
                node.input[i] = PREFIX + "pixels"
    constants = {PREFIX + "255": 255.0, PREFIX + "1_256": 1 / 256}
    for name, value in constants.items():
        model.graph.initializer.append(numpy_helper.from_array(np.array(value, np.float32), name))
    steps = [
        ("Mul", [entry, PREFIX + "255"], PREFIX + "levels"),
        ("Round", [PREFIX + "levels"], PREFIX + "level"),
        ("Mul", [PREFIX + "level", PREFIX + "1_256"], PREFIX + "pixels"),
    ]
    nodes = [helper.make_node(kind, inputs, [out], name=out) for kind, inputs, out in steps]
    nodes += list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return True


def _first_convs(graph: Graph, entry: str) -> List[Any]:
    """Convolutions that read the pixels; none if anything but them and moving about does."""
    found: Dict[int, Any] = {}
    waiting = [entry]
    while waiting:
        name = waiting.pop()
        if name in graph.outputs:
            return []
        for node in graph.readers.get(name, []):
            data = [n for n in node.input[:1] if n == name]
            if node.op_type == "Conv" and data and _alone(graph, node, 1):
                found[id(node)] = node
            elif node.op_type == "Shape":
                continue
            elif node.op_type in MOVING and (data or node.op_type == "Concat"):
                waiting += node.output
            else:
                return []
    return list(found.values())


def _alone(graph: Graph, conv: Any, index: int) -> bool:
    """Whether an input of a convolution is a constant that nothing else reads."""
    if len(conv.input) <= index:
        return False
    name = conv.input[index]
    return name in graph.constants and len(graph.readers[name]) == 1


def round_weights(
    model: "ModelProto", images: Sequence[np.ndarray], *, progress: bool = False
) -> None:
    """Make weights and biases of the convolutions FP16 numbers, in place; they stay float32.

    Args:
        images: (1, 3, H, W) float32 RGB 0..1, all of one size.
        progress: show a bar on a terminal.

    A constant that several nodes share is left to be rounded to the nearest, and without images
    all are. Raises InputError if ONNX Runtime is not there or cannot run the model.
    """
    from tqdm import tqdm

    if not images:
        return

    graph = Graph(model)
    convs = [conv for conv in graph.convs if _alone(graph, conv, 1)]
    hidden = None if progress else True  # None: shown on a terminal
    with tqdm(total=len(convs), desc="round", unit="convolution", disable=hidden) as bar:
        for start in range(0, len(convs), AT_ONCE):
            part = convs[start : start + AT_ONCE]
            for conv, seen in zip(part, _inputs(model, graph, part, images=images)):
                _round_in_place(graph, conv, seen)
                bar.update()


def _round_in_place(graph: Graph, conv: Any, seen: np.ndarray) -> None:
    """The weights of a convolution, and its bias unless others read it. seen (N, C, k, k)."""
    from onnx import numpy_helper

    own = _alone(graph, conv, 2)
    weights = numpy_helper.to_array(graph.constants[conv.input[1]]).astype(np.float64)
    bias = np.zeros(len(weights))
    if own:
        bias = numpy_helper.to_array(graph.constants[conv.input[2]]).astype(np.float64)
    done = _round_conv(weights, bias, seen, groups=attribute(conv, "group", 1))
    for name, value in zip(conv.input[1 : 3 if own else 2], done):
        value = value.astype(np.float32)
        graph.constants[name].CopyFrom(numpy_helper.from_array(value, name))


def _inputs(
    model: "ModelProto", graph: Graph, convs: Sequence[Any], *, images: Iterable[np.ndarray]
) -> List[np.ndarray]:
    """What each convolution sees at random places of the images: (N, C, k, k) float32."""
    import onnx
    from onnx import helper

    from utils.quantization.activation_ranges import open_session

    images = list(images)
    names = sorted({conv.input[0] for conv in convs})
    body = with_input_hw(model, *_batch_hw(images[0]))
    nodes = [n for old, n in zip(graph.nodes, body.graph.node) if id(old) not in graph.decode]
    kept = onnx.ModelProto()
    kept.CopyFrom(body)
    del kept.graph.node[:], kept.graph.output[:], kept.graph.value_info[:]
    kept.graph.node.extend(nodes)
    kept.graph.output.extend(helper.make_empty_tensor_value_info(n) for n in names)
    try:
        session = open_session(kept.SerializeToString())
    except ImportError as e:
        raise InputError("fine rounding needs onnxruntime: pip install onnxruntime") from e
    except Exception as e:  # ONNX Runtime's errors share no base class but Exception
        raise InputError("ONNX Runtime cannot run the model (%s)" % one_line(e, 150)) from e
    rng = np.random.default_rng(0)
    seen: List[List[np.ndarray]] = [[] for _ in convs]
    for image in images:
        try:
            found = dict(zip(names, session.run(names, {graph.inputs[0]: image})))
        except Exception as e:
            raise InputError("ONNX Runtime cannot run the model (%s)" % one_line(e, 150)) from e
        for conv, part in zip(convs, seen):
            part.append(_patches(conv, graph, found[conv.input[0]][0], rng=rng))
    return [np.concatenate(part) for part in seen]


def _batch_hw(image: np.ndarray) -> Any:
    return image.shape[0], (image.shape[2], image.shape[3])


def _patches(conv: Any, graph: Graph, x: np.ndarray, *, rng: Any) -> np.ndarray:
    """Random receptive fields of a convolution over x (C, h, w): (N, C, kh, kw)."""
    kh, kw = graph.constants[conv.input[1]].dims[2:]
    sy, sx = attribute(conv, "strides", [1, 1])
    dy, dx = attribute(conv, "dilations", [1, 1])
    top, left, bottom, right = attribute(conv, "pads", [0, 0, 0, 0])
    x = np.pad(x, ((0, 0), (top, bottom), (left, right)))
    h = (x.shape[1] - dy * (kh - 1) - 1) // sy + 1
    w = (x.shape[2] - dx * (kw - 1) - 1) // sx + 1
    y, z = np.divmod(rng.choice(h * w, min(POSITIONS, h * w), replace=False), w)
    rows = (y * sy)[:, None, None] + dy * np.arange(kh)[:, None]  # [N, kh, 1]
    columns = (z * sx)[:, None, None] + dx * np.arange(kw)  # [N, 1, kw]
    return np.ascontiguousarray(x[:, rows, columns].transpose(1, 0, 2, 3))


def _round_conv(weights: np.ndarray, bias: np.ndarray, seen: np.ndarray, *, groups: int) -> Any:
    """FP16 (weights, bias) as float64.

    weights (O, C / groups, kh, kw), bias (O,), seen (N, C, kh, kw).
    """
    fine = _nearest(bias)
    channels, field = weights.shape[1], int(np.prod(weights.shape[2:]))
    w = weights.reshape(groups, -1, channels, field)  # [G, O / G, C / G, k k]
    seen = seen.reshape(len(seen), groups, channels, field).transpose(1, 0, 2, 3)
    rounded = np.empty_like(w)
    # the mean error so far goes from part to part, that of the bias first
    error = (bias - fine).reshape(groups, -1)
    step = max(1, COLUMNS // field)
    for start in range(0, channels, step):
        part = w[:, :, start : start + step]
        flat = part.reshape(part.shape[:2] + (-1,))
        inside = seen[:, :, start : start + step].reshape(groups, seen.shape[1], -1)
        q = _round_rows(flat, error, inside)
        mean = inside.mean(1, dtype=np.float64)
        error = error + ((flat - q) @ mean[:, :, None])[:, :, 0]
        rounded[:, :, start : start + step] = q.reshape(part.shape)
    return rounded.reshape(weights.shape), fine


def _nearest(values: np.ndarray) -> np.ndarray:
    return np.clip(values, -LARGEST, LARGEST).astype(np.float16).astype(np.float64)


def _round_rows(weights: np.ndarray, error: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """FP16 numbers q for weights (G, O, n), so that error + (weights - q) x is small for x seen.

    error (G, O), seen (G, N, n), G groups that have nothing to do with each other.
    """
    ones = np.ones(seen.shape[:2] + (1,), np.float32)
    x = np.concatenate([ones, seen], 2)
    hessian = (x.transpose(0, 2, 1) @ x).astype(np.float64) / x.shape[1]
    if not np.isfinite(hessian).all():  # no inputs, or some beyond FP32
        return _nearest(weights)
    count = hessian.shape[1]
    diagonal = np.arange(count)
    mean = np.trace(hessian, axis1=1, axis2=2)[:, None] / count
    hessian[:, diagonal, diagonal] += DAMPING * mean + 1e-12
    upper = np.linalg.cholesky(np.linalg.inv(hessian)).transpose(0, 2, 1)
    w = np.concatenate([error[:, :, None], weights], 2)
    q = np.zeros_like(w)
    for start in range(0, count, BLOCK):
        stop = min(start + BLOCK, count)
        errors = np.zeros(w.shape[:2] + (stop - start,))
        for j in range(start, stop):
            if j:  # column 0 is the error that is there already: nothing can be chosen
                q[:, :, j] = _nearest(w[:, :, j])
            e = (w[:, :, j] - q[:, :, j]) / upper[:, None, j, j]
            errors[:, :, j - start] = e
            w[:, :, j:stop] -= e[:, :, None] * upper[:, None, j, j:stop]
        w[:, :, stop:] -= errors @ upper[:, start:stop, stop:]
    return q[:, :, 1:]
