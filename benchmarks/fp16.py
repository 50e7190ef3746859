"""How far FP16 moves keypoints: the rows of a --half ONNX against those of the FP32 one.

    python benchmarks/fp16.py --weights weights/yolov5s6_pose.pt --img-size 1280

Exports FP32 and --half, the latter with --round nearest and cancel, and runs all on the val
images, letterboxed. Prints a Markdown table of the keypoints of all rows above a score, before
NMS; px of the input. Each file runs twice: in ONNX Runtime, whose CPU computes in float32 and
leaves out some of the rounding between neighbours, and `fused`: rounded to FP16 once behind each
block, as TensorRT's kernels do, and computed in float32.
"""

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any, Dict, List

if not __package__:
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from benchmarks.machine import describe
from utils import cli
from utils.dataset.data_yaml import read_data
from utils.dataset.eval_set import read_eval_set
from utils.graph.analysis import Graph
from utils.quantization.images import batches
from utils.runtime.onnx_backend import OnnxBackend

SCORES = (0.1, 0.25, 0.5)
LIMIT = 0.5  # px asked for
SURE = 0.5  # confidence of a keypoint
HEADER = (
    "| weights | run | score | rows | points above 0.5 px | largest px | 99 % within px | mean px "
    "| largest of sure points px | largest of box |"
)


def get_args_parser():
    parser = argparse.ArgumentParser(
        "fp16.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--weights", default="weights/yolov5s6_pose.pt")
    add("--img-size", type=int, default=1280)
    add("--data", default="data/coco_kpts.yaml")
    add("--images", type=int, default=98, help="the first of the val task [98]")
    return parser


def fused(model: Any) -> Any:
    """A --half model in float32 that rounds to FP16 once behind each block.

    A block is a convolution with its SiLU; additions and the input are rounded, too.
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    wide = onnx.ModelProto()
    wide.CopyFrom(model)
    for constant in wide.graph.initializer:
        if constant.data_type == TensorProto.FLOAT16:
            value = numpy_helper.to_array(constant).astype(np.float32)
            constant.CopyFrom(numpy_helper.from_array(value, constant.name))
    for entry in [*wide.graph.input, *wide.graph.output]:
        if entry.type.tensor_type.elem_type == TensorProto.FLOAT16:
            entry.type.tensor_type.elem_type = TensorProto.FLOAT
    del wide.graph.value_info[:]
    graph = Graph(wide)
    rounded = {conv.output[0] for conv in graph.convs}
    for node in graph.nodes:
        if graph.is_silu(node) and id(node) not in graph.decode:
            rounded -= set(node.input)
            rounded |= set(node.output)
        elif node.op_type == "Add" and id(node) not in graph.decode:
            rounded |= set(node.output)
    rounded |= set(graph.inputs)
    nodes: List[Any] = []

    def cast(name: str) -> None:
        if name in rounded:
            nodes.append(helper.make_node("Cast", [name], [name + "/h"], to=TensorProto.FLOAT16))
            nodes.append(helper.make_node("Cast", [name + "/h"], [name + "/f"], to=1))

    for name in graph.inputs:
        cast(name)
    for node in graph.nodes:
        for i, name in enumerate(node.input):
            if name in rounded:
                node.input[i] = name + "/f"
        nodes.append(node)
        for name in node.output:
            cast(name)
    del wide.graph.node[:]
    wide.graph.node.extend(nodes)
    return wide


def write_models(folder: Path, weights: str, hw: Any) -> Dict[Any, Path]:
    """(weights, run) -> file; the first is FP32."""
    import onnx

    from models.checkpoint import load_checkpoint
    from utils.export.onnx_export import export
    from utils.quantization.adaptive_rounding import sample_images

    paths = {("FP32", ""): folder / "x.onnx"}
    export(load_checkpoint(weights).model.fuse(), paths["FP32", ""], hw, simplify=True)
    for name, images in (("nearest", []), ("cancel", sample_images(hw))):
        path = paths[name, "ONNX Runtime"] = folder / (name + ".onnx")
        model = load_checkpoint(weights).model.fuse()
        graph = export(model, path, hw, half=True, simplify=True, images=images)
        paths[name, "fused"] = folder / (name + "-fused.onnx")
        onnx.save(fused(graph), str(paths[name, "fused"]))
    return paths


def main(args):
    hw = (args.img_size, args.img_size)
    paths = read_eval_set(read_data(args.data), "val").paths[: args.images]
    with tempfile.TemporaryDirectory() as folder:
        files = write_models(Path(folder), args.weights, hw)
        backends = {key: OnnxBackend(path, gpu=-1) for key, path in files.items()}
        reference = backends.pop(("FP32", ""))
        nc = reference.nc
        wanted: List[np.ndarray] = []
        found: Dict[Any, List[np.ndarray]] = {key: [] for key in backends}
        for batch in batches(paths, hw, 1, letterboxed=True, title="compare"):
            rows = np.asarray(reference(batch))[0]
            likely = rows[:, 4] * rows[:, 5 : 5 + nc].max(1) >= SCORES[0]
            wanted.append(rows[likely])
            for key, backend in backends.items():
                found[key].append(np.asarray(backend(batch))[0][likely])
    print(describe())
    print("%d images, %dx%d px, %s against FP32" % (len(paths), *hw, args.weights))
    print(HEADER + "\n" + "|---" * HEADER.count(" | ") + "|---|")
    for key, rows in found.items():
        for score in SCORES:
            print_row(key, score, np.concatenate(wanted), np.concatenate(rows), nc)


def print_row(key: Any, score: float, wanted: np.ndarray, found: np.ndarray, nc: int) -> None:
    """One line of the table: rows (N, 5 + nc + 3K) of FP32 and FP16."""
    sure = wanted[:, 4] * wanted[:, 5 : 5 + nc].max(1) >= score
    points = [r[sure][:, 5 + nc :].reshape(int(sure.sum()), -1, 3) for r in (wanted, found)]
    d = np.linalg.norm(points[1][..., :2] - points[0][..., :2], axis=-1)
    if not d.size:
        return
    box = wanted[sure][:, 2:4].max(1)[:, None]
    seen = d[points[0][..., 2] >= SURE]
    figures = (len(d), (d > LIMIT).sum(), d.size, d.max(), np.percentile(d, 99), d.mean())
    print("| %s | %s | >= %g | %d | %d of %d | %.3f | %.3f | %.4f | %.3f | %.2g |"
          % (*key, score, *figures, seen.max() if seen.size else 0, (d / box).max()))  # fmt: skip


if __name__ == "__main__":
    cli.run(main, get_args_parser())
