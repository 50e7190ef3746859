"""Where INT8 loses accuracy: each tensor quantised alone, all others in float.

for row in sensitivity(model, plan, scales, batches): ...
"""

from typing import TYPE_CHECKING, Dict, List, NamedTuple, Sequence

import numpy as np

from utils.graph.analysis import Graph
from utils.quantization.activation_ranges import open_session, sure_columns
from utils.quantization.qdq import QdqPlan, insert

if TYPE_CHECKING:
    from onnx import ModelProto

MIN_SCORE = 0.1  # of the rows that count


class Loss(NamedTuple):
    """What quantising one scale group does to the raw predictions."""

    tensors: List[str]
    convs: List[str]  # that read it
    points: float  # mean distance of keypoints, over the square root of the box area
    score: float  # mean change of the objectness, of imported models of the best class
    largest: float  # magnitude the scale stands for


def sensitivity(
    model: "ModelProto",
    plan: QdqPlan,
    scales: Dict[str, float],
    *,
    batches: Sequence[np.ndarray],
    nc: int = 1,
) -> List[Loss]:
    """Loss of each scale group, worst first; a bar shows the progress.

    Args: model: before `insert`, with the raw output. batches: calibration images.
    """
    import onnx
    from tqdm import tqdm

    entry, sure = model.graph.input[0].name, sure_columns(model)
    session = open_session(model.SerializeToString())
    reference = [session.run(None, {entry: batch})[0] for batch in batches]
    rows = [r[..., 4] * r[..., 5 : 5 + nc].max(-1) > MIN_SCORE for r in reference]
    groups: Dict[str, List[str]] = {}
    for name in plan.tensors:
        groups.setdefault(plan.group[name], []).append(name)
    losses = []
    quantised = {conv.output[0] for conv in plan.convs}
    for names in tqdm(list(groups.values()), "sensitivity", unit="tensor", disable=None):
        alone = onnx.ModelProto()
        alone.CopyFrom(model)
        graph = Graph(alone)
        mine = [c for c in graph.convs if c.output[0] in quantised and c.input[0] in names]
        insert(alone, plan._replace(graph=graph, convs=mine, tensors=names), scales)
        session = open_session(alone.SerializeToString())
        points, score = [], []
        for batch, r, keep in zip(batches, reference, rows):
            if not keep.any():
                continue
            found, wanted = session.run(None, {entry: batch})[0][keep], r[keep]
            size = np.sqrt(np.maximum(wanted[:, 2] * wanted[:, 3], 1.0))
            moved = (found - wanted)[:, 5 + nc :].reshape(len(found), -1, 3)[..., :2]
            points.append(np.hypot(moved[..., 0], moved[..., 1]).mean(1) / size)
            score.append(np.abs(found[:, sure].max(1) - wanted[:, sure].max(1)))
        losses.append(
            Loss(
                names,
                [conv.output[0] for conv in mine],
                float(np.concatenate(points).mean()) if points else 0.0,
                float(np.concatenate(score).mean()) if score else 0.0,
                scales[names[0]] * 127,
            )
        )
    return sorted(losses, key=lambda loss: -loss.points)
