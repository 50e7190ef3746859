"""NMS in PyTorch whose shapes do not depend on the data, so that a CUDA graph can record it.

suppress = FixedNms(NmsSettings(0.25, 0.45), nc=1, device=raw.device)
packed = suppress(raw)                          # one tensor, one copy to the host
poses = suppress.poses(packed.cpu().numpy())    # None of an image: the fixed sizes did not suffice

What it finds equals what utils/pose/nms.py finds; where it finds None, the caller runs that one on
the same raw output.
"""

import math
from typing import TYPE_CHECKING, List, NamedTuple, Optional, Tuple

import numpy as np

from utils.pose import greedy
from utils.pose.greedy import keep_rounds, suppression_matrix
from utils.pose.nms import table_to_poses
from utils.pose.poses import Poses

if TYPE_CHECKING:
    import torch

MOST = 1024  # candidates of an image that take part
ROUNDS = 6  # longest chain of boxes, each suppressing the next, that is resolved
MIN_CONF = 0.1  # below it a network has more candidates, and longer chains
# There, parts of a batch and candidates of an image, the most crowded images first. Of s6 on COCO
# at 0.001, 24 % of the images have more than 1024, 7 % more than 2048, 1 % more than 4096.
CROWDED = ((1 / 8, 4 * MOST), (1 / 4, 2 * MOST))
MAX_BATCH = 128
MAX_PAIRS = 1 << 24  # pairs of boxes looked at together, about 0.4 GB


class NmsSettings(NamedTuple):
    """What NMS keeps; see nms.raw_to_poses."""

    conf_thres: float
    iou_thres: float
    agnostic: bool = False
    max_det: int = 300  # poses an image
    classes: Optional[Tuple[int, ...]] = None


def fits(settings: NmsSettings, batch: int) -> bool:
    """Whether the fixed sizes are likely to suffice for a batch of so many images."""
    return batch <= MAX_BATCH and settings.max_det <= MOST


def groups(conf_thres: float, batch: int) -> List[Tuple[slice, int]]:
    """(images, candidates of each) to look at together, for images in descending crowdedness."""
    tiers, left = [], batch
    for part, most in CROWDED if conf_thres < MIN_CONF else ():
        tiers.append((min(math.ceil(part * batch), left), most))
        left -= tiers[-1][0]
    found, start = [], 0
    for images, most in [*tiers, (left, MOST)]:
        stop, step = start + images, max(MAX_PAIRS // most**2, 1)
        found += [(slice(i, min(i + step, stop)), most) for i in range(start, stop, step)]
        start = stop
    return found


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
        batch, count, _ = raw.shape
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
        parts = groups(settings.conf_thres, batch)
        key = torch.topk(key, min(parts[0][1], count), dim=1).values
        order = torch.where(key < 0, 0, count - 1 - (key & 0xFFFFFFFF))
        total, is_there = passed.sum(1), key >= 0
        rank = torch.argsort(total, descending=True)
        found = []
        for images, most in parts:
            mine = rank[images]
            best = order[mine, :most]
            rows = raw[mine[:, None], best].float()
            best_labels, best_scores = labels[mine[:, None], best], scores[mine[:, None], best]
            # a network that overflows in FP16 says inf or NaN; nobody is there
            there = is_there[mine, :most] & torch.isfinite(rows).all(-1)
            found.append(
                self._kept(
                    rows, best_labels, best_scores, there=there, all_there=total[mine] <= most
                )
            )
        packed = torch.cat(found)
        return torch.empty_like(packed).index_copy_(0, rank, packed)

    def _kept(
        self,
        rows: "torch.Tensor",
        labels: "torch.Tensor",
        scores: "torch.Tensor",
        *,
        there: "torch.Tensor",
        all_there: "torch.Tensor",
    ) -> "torch.Tensor":
        """What __call__ returns, of (b, n, ...) candidates, best first.

        Args: there: (b, n) bool, the others are nobody. all_there: (b,) bool, no image has more.
        """
        import torch

        nc, settings = self._nc, self._settings
        centre, half = rows[..., :2], rows[..., 2:4] / 2
        boxes = torch.cat([centre - half, centre + half], 2)
        within = None if settings.agnostic or nc == 1 else labels
        suppresses = suppression_matrix(boxes, within, iou_thres=settings.iou_thres)
        rounds = ROUNDS if settings.conf_thres >= MIN_CONF else greedy.ROUNDS
        keep, previous = keep_rounds(there, suppresses, there, rounds=rounds)
        settled = (keep == previous).all(1)
        # boxes that follow change nothing before them: as many as asked for are enough
        enough = all_there | (keep.sum(1) >= settings.max_det)
        keep = keep & (keep.cumsum(1) <= settings.max_det)
        values = torch.cat(
            [boxes, scores[..., None], labels[..., None].float(), rows[..., 5 + nc :]], 2
        )
        place = torch.where(keep, keep.cumsum(1) - 1, settings.max_det)
        table = values.new_zeros(len(values), settings.max_det + 1, values.shape[2])
        table.scatter_(1, place[..., None].expand_as(values), values)
        head = torch.stack([(enough & settled).float(), keep.sum(1).float()], 1)
        return torch.cat([head, table[:, :-1].reshape(len(table), -1)], 1)

    def poses(self, packed: np.ndarray) -> List[Optional[Poses]]:
        """What __call__ returned, on the host -> Poses of each image, in the frame of its boxes.

        None for an image with too many candidates or too long a chain of boxes.
        """
        found: List[Optional[Poses]] = []
        for line in packed:
            table = line[2:].reshape(self._settings.max_det, -1)
            found.append(table_to_poses(table[: int(line[1])]) if line[0] else None)
        return found
