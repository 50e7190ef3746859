"""Size and speed of the exported graph, beside one that decodes in place, level by level.

    python benchmarks/graph.py                    # about 5 minutes on 2 cores
    python benchmarks/graph.py --models s --rounds 10

Three graphs of the same weights, all static and simplified:
  ours      Focus as one convolution, out-of-place decode of all levels at once
  in-place  the same body; each level decoded by assignments into slices (becomes ScatterND)
  original  in-place decode, and the published body: sliced Focus, two head convolutions
Nodes are counted at 832 x 832; ONNX Runtime CPU latencies at 640 x 640, the graphs in turn.
"""

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Dict, List

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import onnxruntime
import torch

from benchmarks.machine import describe
from models.common import Conv, Focus
from models.head import PoseHead
from models.yolo import Model
from utils.export.onnx_export import export

HUB = Path(__file__).resolve().parents[1] / "models" / "hub"


def decode_in_place(head: PoseHead, levels: List[torch.Tensor]) -> torch.Tensor:
    """The naive decode: per level, permute, then overwrite slices."""
    out = []
    for i, t in enumerate(levels):
        b, _, ny, nx = t.shape
        t = t.view(b, head.na, head.no, ny, nx).permute(0, 1, 3, 4, 2).contiguous()
        det, kpt = t[..., : head.no_det], t[..., head.no_det :]
        gy, gx = torch.meshgrid(torch.arange(ny), torch.arange(nx), indexing="ij")
        grid = torch.stack([gx, gy], 2).view(1, 1, ny, nx, 2).float()
        s = float(head.stride[i])
        y = det.sigmoid()
        y[..., 0:2] = (y[..., 0:2] * 2.0 - 0.5 + grid) * s
        y[..., 2:4] = (y[..., 2:4] * 2) ** 2 * head.anchor_grid[i].view(1, head.na, 1, 1, 2)
        k = kpt.clone()
        k[..., 0::3] = (kpt[..., 0::3] * 2.0 - 0.5 + grid[..., 0:1]) * s
        k[..., 1::3] = (kpt[..., 1::3] * 2.0 - 0.5 + grid[..., 1:2]) * s
        k[..., 2::3] = kpt[..., 2::3].sigmoid()
        out.append(torch.cat([y, k], -1).view(b, -1, head.no))
    return torch.cat(out, 1)


def variants(size: str) -> Dict[str, Model]:
    """The three networks, fused, with the same weights."""
    models = {}
    for name in ("ours", "in-place", "original"):
        torch.manual_seed(0)
        model = Model(HUB / ("yolov5%s6_kpts.yaml" % size)).eval()
        if name == "original":
            for module in model.modules():
                if isinstance(module, Conv):
                    module.fuse()
            assert not any(m.fused for m in model.modules() if isinstance(m, Focus))
        else:
            model.fuse()
        if name != "ours":
            head = model.head
            head.decode = lambda levels, head=head: decode_in_place(head, levels)
        models[name] = model
    return models


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--models", nargs="+", default=["s", "l"], help="sizes: n s m l [s l]")
    parser.add_argument("--rounds", type=int, default=15, help="timed runs of each graph [15]")
    args = parser.parse_args()
    versions = (onnxruntime.__version__, torch.__version__)
    print("ONNX Runtime %s, PyTorch %s; %s" % (*versions, describe()))
    print("| model | graph | nodes at 832 | ms at 640, median | minimum | ours / this, paired |")
    print("|---|---|---|---|---|---|")
    image = np.random.default_rng(0).random((1, 3, 640, 640), np.float32)
    for size in args.models:
        nodes, sessions, outputs = {}, {}, {}
        with tempfile.TemporaryDirectory() as folder:
            for name, model in variants(size).items():
                path = Path(folder) / (name + ".onnx")
                nodes[name] = len(export(model, path, (832, 832), simplify=True).graph.node)
                export(model, path, (640, 640), simplify=True)
                sessions[name] = onnxruntime.InferenceSession(
                    str(path), providers=["CPUExecutionProvider"]
                )
                outputs[name] = sessions[name].run(None, {"input": image})[0]
        for name in outputs:
            np.testing.assert_allclose(outputs[name], outputs["ours"], rtol=1e-3, atol=1e-2)
        times: Dict[str, List[float]] = {name: [] for name in sessions}
        for _ in range(args.rounds):
            for name, session in sessions.items():
                started = time.perf_counter()
                session.run(None, {"input": image})
                times[name].append(1000 * (time.perf_counter() - started))
        for name, ms in times.items():
            ratio = statistics.median(a / b for a, b in zip(times["ours"], ms))
            print(
                "| %s6 | %s | %d | %.1f | %.1f | %.3f |"
                % (size, name, nodes[name], statistics.median(ms), min(ms), ratio)
            )


if __name__ == "__main__":
    main()
