"""The loss of YOLO-Pose (Maji et al. 2022, arXiv 2204.06806): box, keypoints, objectness, class.

    loss = PoseLoss(model.head.anchors, model.nc, sigmas, hyp=hyp)
    total, parts = loss(levels, targets)

The step waits for nothing: the matches come ready from the loader, with sizes known on the host.
"""

import math
from typing import Sequence, Tuple

import torch
from torch.nn import functional as F

from utils.pose.keypoints import AREA_OF_BOX
from utils.training.hyper_parameters import Hyp
from utils.training.targets import Targets

PARTS = ("box", "kpt", "kpt_conf", "obj", "cls")
LEVEL_WEIGHTS = (4.0, 1.0, 0.25, 0.06)  # of objectness, stride 8 to 64
# The OKS loss 1 - exp(-d^2 / 2 s^2 k^2) has no gradient while a point is far off. Its mean over the
# sigmas and these multiples has one at every distance, up to about a person's size, and is still
# the OKS at its bottom: bounded, and nothing that depends on the epoch.
SIGMA_MULTIPLES = (1.0, 3.0, 9.0)


class PoseLoss:
    """Loss of raw predictions.

    Args:
        anchors: (levels, anchors, 2) float w h, cells of the level, on the device.
        nc, sigmas: classes; OKS sigmas of the K keypoints.
        label_smoothing: 0..1, of the class targets where there are several classes.
    """

    def __init__(
        self,
        anchors: torch.Tensor,
        nc: int,
        sigmas: Sequence[float],
        *,
        hyp: Hyp,
        label_smoothing: float = 0.0,
    ):
        self.anchors, self.nc, self.hyp = anchors, nc, hyp
        device = anchors.device
        # (2 k)^2 as in COCO's OKS, one for each keypoint
        self.variance = (2 * torch.tensor(list(sigmas), device=device)) ** 2
        self.cls_pw = torch.tensor(hyp.cls_pw, device=device)
        self.obj_pw = torch.tensor(hyp.obj_pw, device=device)
        self.positive, self.negative = 1.0, 0.0
        if nc > 1:
            self.positive = 1 - 0.5 * label_smoothing
            self.negative = 0.5 * label_smoothing
        levels = len(anchors)
        self.balance = (LEVEL_WEIGHTS + (0.02,) * levels)[:levels]

    def __call__(
        self, levels: Sequence[torch.Tensor], targets: Targets
    ) -> Tuple[torch.Tensor, torch.Tensor]:
        """(mean loss of an image, its weighted parts in the order of PARTS, detached).

        Args:
            levels: raw values (B, na, ny, nx, 5 + nc + 3K) of each level, any float type.
            targets: its arrays as tensors of the device.
        """
        device = levels[0].device
        zero = torch.zeros((), device=device)
        box, kpt, kpt_conf, obj, cls = zero, zero, zero, zero, zero
        start = 0
        for i, raw in enumerate(levels):
            part = slice(start, start + targets.counts[i])
            start = part.stop
            wanted = torch.zeros(raw.shape[:4], device=device)
            if targets.counts[i]:
                image, anchor, y, x = targets.index[part].unbind(1)
                t = raw[image, anchor, y, x].float()
                iou = self._iou(t, self.anchors[i][anchor], targets.boxes[part])
                box = box + (1 - iou).mean()
                far, known, oks = self._keypoints(t, targets.boxes[part], targets.keypoints[part])
                kpt = kpt + far
                kpt_conf = kpt_conf + known
                cls = cls + self._classes(t, targets.classes[part])
                score = iou.detach().clamp(0, 1)
                if self.hyp.obj_oks:
                    # NaN: nothing is labelled, so the box alone says how good it is
                    mixed = torch.lerp(score, oks, self.hyp.obj_oks)
                    score = torch.where(oks.isnan(), score, mixed)
                # several persons may want one cell: the one that is predicted best has it
                cell = ((image * raw.shape[1] + anchor) * raw.shape[2] + y) * raw.shape[3] + x
                wanted.view(-1).scatter_reduce_(0, cell, score, "amax")
            obj = obj + self.balance[i] * self._focal(raw[..., 4].float(), wanted, self.obj_pw)
        hyp = self.hyp
        gains = (hyp.box, hyp.kpt, hyp.kpt_conf, hyp.obj, hyp.cls)
        parts = torch.stack([v * g for v, g in zip((box, kpt, kpt_conf, obj, cls), gains)])
        return parts.sum(), parts.detach()

    def _iou(self, t: torch.Tensor, anchors: torch.Tensor, boxes: torch.Tensor) -> torch.Tensor:
        """CIoU (n,) of the boxes that raw values t (n, no) stand for."""
        xy = t[:, :2].sigmoid() * 2 - 0.5
        wh = (t[:, 2:4].sigmoid() * 2) ** 2 * anchors
        return complete_iou(torch.cat([xy, wh], 1), boxes)

    def _keypoints(
        self, t: torch.Tensor, boxes: torch.Tensor, keypoints: torch.Tensor
    ) -> Tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """(loss of the places, loss of the confidences, OKS (n,) without gradient, NaN where no
        keypoint is labelled).

        A level without any labelled keypoint costs nothing, rather than 0 / 0.
        """
        points = t[:, 5 + self.nc :].view(len(t), -1, 3)
        labelled = (keypoints[..., 2] > 0).float()
        squared = ((points[..., :2] * 2 - 0.5 - keypoints[..., :2]) ** 2).sum(2)
        area = (AREA_OF_BOX * boxes[:, 2] * boxes[:, 3]).unsqueeze(1)
        error = squared / (2 * area * self.variance + 1e-9)
        loss = sum(1 - torch.exp(-error / m**2) for m in SIGMA_MULTIPLES) / len(SIGMA_MULTIPLES)
        count = labelled.sum()
        far = (loss * labelled).sum() / count.clamp(min=1)
        known = F.binary_cross_entropy_with_logits(points[..., 2], labelled)
        with torch.no_grad():
            oks = (torch.exp(-error) * labelled).sum(1) / labelled.sum(1)
        return far, known, oks

    def _classes(self, t: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
        """With a single class, too: its probability is a factor of the score, so it has to be 1."""
        logits = t[:, 5 : 5 + self.nc]
        wanted = torch.full_like(logits, self.negative)
        wanted.scatter_(1, classes.unsqueeze(1), self.positive)
        return self._focal(logits, wanted, self.cls_pw)

    def _focal(
        self, logits: torch.Tensor, wanted: torch.Tensor, weight: torch.Tensor
    ) -> torch.Tensor:
        """Mean binary cross-entropy; focal (Lin et al. 2017, arXiv 1708.02002) if fl_gamma > 0."""
        if self.hyp.fl_gamma <= 0:
            return F.binary_cross_entropy_with_logits(logits, wanted, pos_weight=weight)
        loss = F.binary_cross_entropy_with_logits(
            logits, wanted, pos_weight=weight, reduction="none"
        )
        p = logits.sigmoid()
        right = wanted * p + (1 - wanted) * (1 - p)
        alpha = wanted * 0.25 + (1 - wanted) * 0.75
        return (loss * alpha * (1 - right) ** self.hyp.fl_gamma).mean()


def complete_iou(a: torch.Tensor, b: torch.Tensor, eps: float = 1e-7) -> torch.Tensor:
    """CIoU (n,) of cxcywh boxes (n, 4): IoU, less the distance of the centres and the difference of
    the shapes. Zheng et al. 2020, arXiv 1911.08287; the weight of the shape has no gradient."""
    a_low, a_high = a[:, :2] - a[:, 2:] / 2, a[:, :2] + a[:, 2:] / 2
    b_low, b_high = b[:, :2] - b[:, 2:] / 2, b[:, :2] + b[:, 2:] / 2
    overlap = (torch.minimum(a_high, b_high) - torch.maximum(a_low, b_low)).clamp(min=0).prod(1)
    union = a[:, 2:].prod(1) + b[:, 2:].prod(1) - overlap + eps
    iou = overlap / union
    hull = torch.maximum(a_high, b_high) - torch.minimum(a_low, b_low)
    far = ((a[:, :2] - b[:, :2]) ** 2).sum(1) / ((hull**2).sum(1) + eps)
    slope = torch.atan(b[:, 2] / (b[:, 3] + eps)) - torch.atan(a[:, 2] / (a[:, 3] + eps))
    shape = (4 / math.pi**2) * slope**2
    with torch.no_grad():
        alpha = shape / (1 - iou + shape + eps)
    return iou - far - alpha * shape
