"""embedded NMS: exactness on random sets and real images, and what it costs.

    python benchmarks/nms.py --stress 10000          # random sets against greedy NMS, 5 minutes
    python benchmarks/nms.py --cost weights/yolov5n6_pose.pt     # ONNX Runtime CPU
    python benchmarks/nms.py --images data/coco_kpts/images/val2017 --cost x.pt
    python benchmarks/nms.py --gpu                   # the same arithmetic in PyTorch on CUDA

--images: the poses of embedded NMS against NMS outside, on every image of the folder, for three
pairs of thresholds, FP32 and FP16, both forms. --gpu: milliseconds of the static form alone, in
one CUDA graph.
"""

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Dict, List, Tuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from benchmarks.machine import describe
from utils.graph.nms import OUTPUTS, add_nms, swap_efficientnms
from utils.graph.nms_forms import BOUNDS, Nms
from utils.pose import nms as outside
from utils.pose.greedy import below, greedy_nms


def random_set(seed: int) -> np.ndarray:
    """(n, 9) raw rows, n 0 to 1000: crowds, copies, equal scores, empty boxes, chains.

    A chain is a row of 4 to 30 boxes, each overlapping its neighbours, scores falling or random.
    """
    rng = np.random.default_rng(seed)
    n = int(rng.integers(0, 1001) * rng.random())
    rows = rng.random((n, 9)).astype(np.float32)
    places = rng.uniform(0, 640, (int(rng.integers(1, 60)), 2))
    rows[:, :2] = places[rng.integers(0, len(places), n)] + rng.normal(0, 6, (n, 2))
    rows[:, 2:4] = rng.uniform(10, 120, (n, 2))
    start = 0
    while start < n // 3:
        length = int(rng.integers(4, 31))
        chain = rows[start : start + length]
        side, step = rng.uniform(20, 80), rng.uniform(0.05, 0.5)
        chain[:, :2] = rng.uniform(0, 640, 2)
        chain[:, 0] += side * step * np.arange(len(chain))
        chain[:, 2:4] = side
        if rng.random() < 0.3:
            chain[:, 4] = np.sort(chain[:, 4])[::-1]
        start += length
    if n > 8:
        rows[n // 2 : n // 2 + n // 8, :4] = rows[-(n // 8) :, :4]  # copies
        rows[-2:, 2:4] = 0  # no area
    if seed % 3 == 0:
        rows[:, 4] = np.round(rows[:, 4], 1)
    rows[:, 5] = 1.0
    return rows


def rows_model(n: int, settings: Nms) -> Any:
    """The static form alone: (1, n, 9) rows -> the five outputs."""
    from onnx import TensorProto, helper

    graph = helper.make_graph(
        [helper.make_node("Transpose", ["input"], ["output"], perm=[0, 2, 1])],
        "rows",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 9, n])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, [1, n, 9])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
    model.ir_version = 7
    add_nms(model, 1, settings)
    return model


def make_session(model: Any) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def steps_needed(boxes: np.ndarray, iou_thres: float) -> int:
    """Length of the chains of (n, 4) boxes in order of score: steps to the fixed point."""
    low, high = boxes[:, None, :2], boxes[:, None, 2:]
    overlap = np.minimum(high, boxes[None, :, 2:]) - np.maximum(low, boxes[None, :, :2])
    inter = overlap.clip(0).prod(2)
    area = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    with np.errstate(invalid="ignore", divide="ignore"):
        over = inter / (area[:, None] + area - inter) > below(iou_thres)
    matrix = np.triu(over, 1).astype(np.float32)
    kept, steps = np.ones(len(boxes), np.float32), 0
    while True:
        following = np.maximum(1 - kept @ matrix, 0)
        if (following == kept).all():
            return steps
        kept, steps = following, steps + 1


def stress(count: int, steps: int) -> None:
    """Random sets in the static form, against utils/pose/nms.py."""
    print("| conf | iou | sets | kept | equal | missed a pose | returned a wrong one | steps |")
    print("|---|---|---|---|---|---|---|---|")
    pairs = ((0.25, 0.45), (0.5, 0.45), (0.001, 0.6), (0.001, 0.65), (0.1, 0.2))
    for number, (conf, iou) in enumerate(pairs):
        settings = Nms("static", conf, iou, 300, 1024, steps).resolved()
        session = make_session(rows_model(1024, settings))
        equal = missed = wrong = kept = sets = 0
        needed: List[int] = []
        for seed in range(number, count, len(pairs)):
            rows = random_set(seed)
            padded = np.zeros((1, 1024, 9), np.float32)
            padded[0, : len(rows)] = rows
            feed = {"input": np.ascontiguousarray(padded.transpose(0, 2, 1))}
            total, index = session.run(["num_dets", "det_indices"], feed)
            got = index[0, : total[0, 0], 2].tolist()
            poses = outside.rows_to_poses(rows, 1)
            order = np.argsort(-poses.scores, kind="stable")
            order = order[poses.scores[order] > conf]
            exact = order[greedy_nms(poses.boxes[order], iou, None, max_det=1000)].tolist()
            want = exact[:300]
            needed.append(steps_needed(poses.boxes[order], iou))
            sets, kept = sets + 1, kept + len(want)
            equal += got == want
            missed += bool(set(want) - set(got))
            wrong += bool(set(got) - set(exact))
        bound = "%d (half: %d, 99 %%: %d, most: %d)" % (
            settings.steps, *np.percentile(needed, (50, 99, 100)),
        )  # fmt: skip
        row = (conf, iou, sets, kept, equal, missed, wrong, bound)
        print("| %g | %g | %d | %d | %d | %d | %d | %s |" % row)


def export_model(weights: str, half: bool) -> Any:
    """The raw ONNX at 640, simplified."""
    from models.checkpoint import load_checkpoint
    from utils.export.onnx_export import export

    model = load_checkpoint(weights).model.fuse()
    with tempfile.TemporaryDirectory() as folder:
        return export(model, Path(folder) / "x.onnx", (640, 640), half=half, simplify=True)


def with_nms(raw: Any, settings: Nms) -> Any:
    import onnx

    model = onnx.ModelProto()
    model.CopyFrom(raw)
    add_nms(model, 1, settings)
    return model


def cost(weights: str, rounds: int) -> None:
    """Nodes and ONNX Runtime CPU latency at 640, in turn."""
    from utils.export.onnx_check import check_batch, check_image

    raw = export_model(weights, False)
    models = {"raw": raw}
    for conf, candidates, steps in ((0.25, 256, 31), (0.25, 512, 15), (0.25, 512, 31)):
        label = "static, %d candidates, %d steps" % (candidates, steps)
        models[label] = with_nms(raw, Nms("static", conf, 0.45, 100, candidates, steps))
    models["static, conf 0.001: 2048, 31"] = with_nms(raw, Nms("static", 0.001, 0.6, 300))
    plugin = with_nms(raw, Nms("efficientnms"))
    nodes = {name: len(model.graph.node) for name, model in models.items()}
    name = "efficientnms (%d nodes), swapped" % len(plugin.graph.node)
    swap_efficientnms(plugin)
    models[name], nodes[name] = plugin, len(plugin.graph.node)
    sessions = {name: make_session(model) for name, model in models.items()}
    feed = {"input": check_batch(check_image(""), (640, 640), 1)}
    times: Dict[str, List[float]] = {name: [] for name in sessions}
    for _ in range(rounds + 2):
        for name, session in sessions.items():
            started = time.perf_counter()
            session.run(None, feed)
            times[name].append(1000 * (time.perf_counter() - started))
    print("| graph | nodes | ms, median | minimum | this / raw, median of pairs |")
    print("|---|---|---|---|---|")
    for name, ms in times.items():
        ms = ms[2:]
        ratio = statistics.median(a / b for a, b in zip(ms, times["raw"][2:]))
        row = (name, nodes[name], statistics.median(ms), min(ms), ratio)
        print("| %s | %d | %.1f | %.1f | %.3f |" % row)


def images(weights: str, folder: str) -> None:
    """Poses of embedded NMS against NMS outside of the same inference, over a folder."""
    import onnx

    from utils.dataset.images import read_image
    from utils.export.onnx_check import check_batch
    from utils.pose.detections import Detections

    files = sorted(Path(folder).glob("*.jpg"))
    print("| precision | conf, iou, topk | form | images | poses | images that differ |")
    print("|---|---|---|---|---|---|")
    pairs = ((0.25, 0.45, 100), (0.5, 0.45, 100), (0.001, 0.6, 300))
    for half in (False, True):
        raw_model = export_model(weights, half)
        raw_session = make_session(raw_model)
        kind = np.float16 if half else np.float32
        raws = []
        for file in files:
            batch = check_batch(read_image(str(file)), (640, 640), 1).astype(kind)
            raws.append(raw_session.run(None, {"input": batch})[0])
        # the NMS alone, fed with those outputs
        head = onnx.helper.make_graph(
            [onnx.helper.make_node("Identity", ["input"], ["output"])],
            "rows",
            [onnx.helper.make_tensor_value_info("input", 1, list(raws[0].shape))],
            [onnx.helper.make_tensor_value_info("output", 1, list(raws[0].shape))],
        )
        head = onnx.helper.make_model(head, opset_imports=[onnx.helper.make_opsetid("", 13)])
        head.ir_version = 7
        for conf, iou, topk in pairs:
            for form in ("static", "efficientnms"):
                model = with_nms(head, Nms(form, conf, iou, topk))
                if form == "efficientnms":
                    swap_efficientnms(model)
                session = make_session(model)
                poses = differ = 0
                for raw in raws:
                    found = Detections(*session.run(list(OUTPUTS), {"input": raw}))
                    inside = outside.detections_to_poses(found)[0]
                    wanted = outside.raw_to_poses(raw, 1, conf, iou_thres=iou, max_det=topk)[0]
                    poses += wanted.count
                    differ += not all(np.array_equal(a, b) for a, b in zip(inside, wanted))
                row = ("FP16" if half else "FP32", conf, iou, topk, form, len(raws), poses, differ)
                print("| %s | %g, %g, %d | %s | %d | %d | %d |" % row)


def static_nms(values: Any, candidates: int, steps: int, topk: int, conf: float, iou: float):
    """The nodes of nms_graph, one PyTorch operation each, one class: (B, 5 + 1 + 3K, N)."""
    import torch

    score = values[:, 4:5] * values[:, 5:6]
    score = torch.where(score > conf, score, torch.zeros_like(score))
    top, index = score.topk(candidates, 2)
    found = top > 0
    box = values[:, :4].gather(2, index.expand(-1, 4, -1))
    half = box[:, 2:] * 0.5
    low, high = box[:, :2] - half, box[:, :2] + half
    area = (high - low).prod(1, keepdim=True)
    found &= area < 1e30
    sides = []
    for axis in (0, 1):
        near, far = low[:, axis : axis + 1], high[:, axis : axis + 1]
        overlap = torch.minimum(far, far.mT) - torch.maximum(near, near.mT)
        sides.append(overlap.relu())
    inter = sides[0] * sides[1]
    union = area + area.mT - inter
    rank = torch.arange(candidates, device=values.device)
    over = (inter / union > iou) & (rank[:, None] < rank)
    matrix = -over.to(values.dtype)
    start = kept = found.to(values.dtype)
    for _ in range(steps):
        kept = torch.baddbmm(start, kept, matrix).relu()
    order = kept * torch.arange(candidates, 0, -1, device=values.device)
    best, place = order.topk(topk, 2)
    found = best > 0
    index, score = index.gather(2, place), top.gather(2, place)
    rows = values.gather(2, index.expand(-1, values.shape[1], -1))
    rows = torch.where(found, rows, torch.zeros_like(rows))
    half = rows[:, 2:4] * 0.5
    boxes = torch.cat([rows[:, :2] - half, rows[:, :2] + half], 1)
    count = found.sum(2).int()
    return count, index, boxes.mT, rows[:, 6:].mT, torch.where(found, score, 0 * score).mT


def gpu(runs: int) -> None:
    """Milliseconds of the static form on CUDA, operations as they are and compiled."""
    import torch

    print("PyTorch %s, %s" % (torch.__version__, torch.cuda.get_device_name(0)))
    print("| candidates | steps | PyTorch operations, ms | torch.compile, ms | kept as on CPU |")
    print("|---|---|---|---|---|")
    torch.manual_seed(0)
    host = torch.rand(1, 57, 25500)
    host[:, :2] *= 640
    host[:, 2:4] = host[:, 2:4] * 80 + 10
    host[:, 4] = host[:, 4] ** 40  # some 3 % above 0.25
    host[:, 5] = 1.0
    values = host.cuda()
    for candidates, steps in ((256, 15), (512, 9), (512, 15), (512, 31), (2048, 31)):
        settings = (candidates, steps, 100, 0.25, float(below(0.45)))
        ms = []
        for function in (static_nms, torch.compile(static_nms)):
            try:
                ms.append("%.3f" % milliseconds(function, values, settings, runs))
            except Exception as e:  # no compiler on this machine
                ms.append("- (%s)" % type(e).__name__)
        here = static_nms(values, *settings)[1][0, 0].cpu().tolist()
        there = static_nms(host, *settings)[1][0, 0].tolist()
        same = "yes" if here == there else "no"
        print("| %d | %d | %s | %s | %s |" % (candidates, steps, *ms, same))


def milliseconds(function: Any, values: Any, settings: Tuple, runs: int) -> float:
    """Median over 7 timings of `runs` replays of one CUDA graph."""
    import torch

    stream = torch.cuda.Stream()
    with torch.no_grad(), torch.cuda.stream(stream):
        for _ in range(3):
            function(values, *settings)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.no_grad(), torch.cuda.graph(graph):
        function(values, *settings)
    times = []
    for _ in range(7):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for _ in range(runs):
            graph.replay()
        end.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(end) / runs)
    return statistics.median(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--stress", type=int, default=0, metavar="SETS")
    parser.add_argument("--steps", type=int, default=0, help="with --stress [the default]")
    parser.add_argument("--cost", default="", metavar="CHECKPOINT")
    parser.add_argument("--images", default="", metavar="FOLDER", help="with --cost CHECKPOINT")
    parser.add_argument("--gpu", action="store_true")
    parser.add_argument("--rounds", type=int, default=25, help="timed runs of each graph [25]")
    args = parser.parse_args()
    print("%s; bounds (conf from, candidates, steps): %s" % (describe(), BOUNDS))
    if args.stress:
        stress(args.stress, args.steps)
    if args.images:
        images(args.cost, args.images)
    elif args.cost:
        cost(args.cost, args.rounds)
    if args.gpu:
        gpu(200)


if __name__ == "__main__":
    main()
