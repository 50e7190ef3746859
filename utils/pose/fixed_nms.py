"""NMS in PyTorch whose shapes do not depend on the data, so that a CUDA graph can record it.

suppress = FixedNms(NmsSettings(0.25, 0.45), nc=1, device=raw.device)
packed = suppress(raw)                          # one tensor, one copy to the host
poses = suppress.poses(packed.cpu().numpy())    # None of an image: the fixed sizes did not suffice

What it finds equals what utils/pose/nms.py finds; where it finds None, the caller runs that one on
the same raw output.
"""

from typing import TYPE_CHECKING, List, NamedTuple, Optional, Tuple

import numpy as np

from utils.pose.greedy import keep_rounds, suppression_matrix
from utils.pose.nms import table_to_poses
from utils.pose.poses import Poses

if TYPE_CHECKING:
    import torch

MOST = 1024  # candidates of an image that take part
ROUNDS = 6  # longest chain of boxes, each suppressing the next, that is resolved
MIN_CONF = 0.1  # below it a network has more candidates than MOST
MAX_PAIRS = 1 << 25  # pairs of boxes in a batch


class NmsSettings(NamedTuple):
    """What NMS keeps; see nms.raw_to_poses."""

    conf_thres: float
    iou_thres: float
    agnostic: bool = False
    max_det: int = 300  # poses an image
    classes: Optional[Tuple[int, ...]] = None


def fits(settings: NmsSettings, batch: int) -> bool:
    """Whether the fixed sizes are likely to suffice for a batch of so many images."""
    return (
        settings.conf_thres >= MIN_CONF
        and batch * MOST * MOST <= MAX_PAIRS
        and settings.max_det <= MOST
    )


class FixedNms:
    """Confidence filter and exact greedy NMS on the device where the raw output lies.

    Args: nc: classes. device: of the raw outputs to come.
    """

    def __init__(self, settings: NmsSettings, nc: int, device: "torch.device"):
        import torch

        self._settings, self._nc = settings, nc
        self._allowed = None  # (nc,) bool; made here, because a graph must not hold its creation
        if settings.classes is not None:
            self._allowed = torch.zeros(nc, dtype=torch.bool, device=device)
            self._allowed[list(settings.classes)] = True

    def __call__(self, raw: "torch.Tensor") -> "torch.Tensor":
        """(B, N, 5 + nc + 3K) float32 or float16 tensor -> what `poses` reads, float32.

        (B, 2 + max_det * (6 + 3K)): 1 if the sizes sufficed, number of poses, and the poses, best
        first: xyxy, score, class, keypoints. Nothing in it waits for the host.
        """
        import torch

        nc, settings = self._nc, self._settings
        batch, count, width = raw.shape
        most = min(MOST, count)
        probability, labels = raw[..., 5 : 5 + nc].float().max(-1)
        objectness = raw[..., 4].float()
        scores = objectness * probability
        passed = (objectness > settings.conf_thres) & (scores > settings.conf_thres)
        if self._allowed is not None:
            passed &= self._allowed[labels]
        # The bits of positive floats ascend as the floats do; equal scores keep their order.
        number = torch.arange(count, device=raw.device)
        key = (scores.contiguous().view(torch.int32).long() << 32) | (count - 1 - number)
        key = torch.where(passed, key, -1)
        key = torch.topk(key, most, dim=1).values
        order = torch.where(key < 0, 0, count - 1 - (key & 0xFFFFFFFF))
        all_there = passed.sum(1) <= most
        rows = torch.gather(raw, 1, order[..., None].expand(-1, -1, width)).float()
        # a network that overflows in FP16 says inf or NaN; nobody is there
        passed = (key >= 0) & torch.isfinite(rows).all(-1)
        labels, scores = torch.gather(labels, 1, order), torch.gather(scores, 1, order)
        centre, half = rows[..., :2], rows[..., 2:4] / 2
        boxes = torch.cat([centre - half, centre + half], 2)
        within = None if settings.agnostic or nc == 1 else labels
        suppresses = suppression_matrix(boxes, within, iou_thres=settings.iou_thres)
        keep, previous = keep_rounds(passed, suppresses, passed, rounds=ROUNDS)
        settled = (keep == previous).all(1)
        # boxes that follow change nothing before them: as many as asked for are enough
        enough = all_there | (keep.sum(1) >= settings.max_det)
        keep = keep & (keep.cumsum(1) <= settings.max_det)
        values = torch.cat(
            [boxes, scores[..., None], labels[..., None].float(), rows[..., 5 + nc :]], 2
        )
        place = torch.where(keep, keep.cumsum(1) - 1, settings.max_det)
        table = values.new_zeros(batch, settings.max_det + 1, values.shape[2])
        table.scatter_(1, place[..., None].expand_as(values), values)
        head = torch.stack([(enough & settled).float(), keep.sum(1).float()], 1)
        return torch.cat([head, table[:, :-1].reshape(batch, -1)], 1)

    def poses(self, packed: np.ndarray) -> List[Optional[Poses]]:
        """What __call__ returned, on the host -> Poses of each image, in the frame of its boxes.

        None for an image with too many candidates or too long a chain of boxes.
        """
        found: List[Optional[Poses]] = []
        for line in packed:
            table = line[2:].reshape(self._settings.max_det, -1)
            found.append(table_to_poses(table[: int(line[1])]) if line[0] else None)
        return found
