import numpy as np
import pytest

torch = pytest.importorskip("torch")

from tests.conftest import ROOT, tiny_cfg  # noqa: E402
from utils.pose.keypoints import SIGMAS  # noqa: E402
from utils.training.hyper_parameters import read_hyp  # noqa: E402
from utils.training.loss import PARTS, PoseLoss, complete_iou  # noqa: E402
from utils.training.targets import Targets  # noqa: E402

HYP = read_hyp(ROOT / "data" / "hyp.scratch.yaml")
NKPT = 17


def levels_of(nc=1, batch=2, seed=0):
    torch.manual_seed(seed)
    no = 5 + nc + 3 * NKPT
    return [torch.randn(batch, 3, n, n, no).requires_grad_() for n in (8, 4, 2, 1)]


def targets_of(counts=(5, 4, 3, 2), seed=0, nc=1, visible=True, distance=0.0):
    rng = np.random.default_rng(seed)
    parts = []
    for level, n in enumerate(counts):
        side = (8, 4, 2, 1)[level]
        index = rng.integers(0, [2, 3, side, side], (n, 4))
        boxes = np.concatenate([rng.uniform(0, 1, (n, 2)), rng.uniform(1, 4, (n, 2))], 1)
        points = rng.uniform(-1, 1, (n, NKPT, 2)) + distance
        v = np.full((n, NKPT, 1), 2.0 if visible else 0.0)
        parts.append((index, rng.integers(0, nc, n), boxes, np.concatenate([points, v], 2)))
    index, classes, boxes, keypoints = (np.concatenate(p) for p in zip(*parts))
    return Targets(
        torch.from_numpy(index),
        torch.from_numpy(classes),
        torch.from_numpy(boxes).float(),
        torch.from_numpy(keypoints).float(),
        list(counts),
    )


def loss_of(nc=1, hyp=HYP, smoothing=0.0):
    anchors = torch.full((4, 3, 2), 2.0)
    return PoseLoss(anchors, nc, SIGMAS, hyp=hyp, label_smoothing=smoothing)


def gradients(levels, total):
    return torch.autograd.grad(total, levels, retain_graph=True, allow_unused=True)


@pytest.mark.parametrize("nc", [1, 3])
@pytest.mark.parametrize("counts", [(5, 4, 3, 2), (0, 0, 0, 0), (5, 0, 0, 1)])
@pytest.mark.parametrize("visible", [True, False])
@pytest.mark.parametrize("hyp", [HYP, HYP._replace(fl_gamma=1.5, obj_oks=0.5)])
def test_finite_whatever_is_labelled(nc, counts, visible, hyp):
    """No person on a level, no labelled keypoint on a level: no 0 / 0."""
    levels = levels_of(nc)
    total, parts = loss_of(nc, hyp, 0.1)(levels, targets_of(counts, nc=nc, visible=visible))
    assert torch.isfinite(total) and torch.isfinite(parts).all() and len(parts) == len(PARTS)
    assert all(torch.isfinite(g).all() for g in gradients(levels, total))
    assert float(total) == pytest.approx(float(parts.sum()))
    if not visible:
        assert parts[PARTS.index("kpt")] == 0


def perfect(levels, targets):
    """Set raw values so that the decode gives the targets."""
    start = 0
    with torch.no_grad():
        for level, n in zip(levels, targets.counts):
            part = slice(start, start + n)
            start += n
            level[..., 4] = -20
            b, a, y, x = targets.index[part].unbind(1)
            box, points = targets.boxes[part], targets.keypoints[part]
            rows = torch.empty(n, level.shape[-1])
            rows[:, :2] = torch.logit((box[:, :2] + 0.5) / 2)
            rows[:, 2:4] = torch.logit((box[:, 2:] / 2.0).sqrt() / 2)
            rows[:, 4:6] = 20
            rows[:, 6:].view(n, NKPT, 3)[..., :2] = (points[..., :2] + 0.5) / 2
            rows[:, 6:].view(n, NKPT, 3)[..., 2] = 20
            level[b, a, y, x] = rows
    return levels


def test_perfect_predictions_cost_nothing():
    targets = targets_of((1, 1, 1, 1))
    levels = perfect(levels_of(), targets)
    _, parts = loss_of()(levels, targets)
    assert float(parts.max()) < 1e-4
    _, shifted = loss_of()(levels, targets._replace(boxes=targets.boxes + 0.3))
    assert float(shifted[0]) > 0.01


def test_far_keypoints_have_a_gradient():
    """Half a person's size away, where the plain OKS loss is flat."""
    targets = targets_of((1, 1, 1, 1))
    levels = perfect(levels_of(), targets)
    moved = targets.keypoints.clone()
    moved[..., :2] += 1.0
    total, _ = loss_of()(levels, targets._replace(keypoints=moved))
    gradient = gradients(levels, total)[0][..., 6::3].abs().max()
    assert float(gradient) > 1e-4


def test_keypoint_loss_is_bounded():
    levels = levels_of()
    _, parts = loss_of()(levels, targets_of(distance=1e4))
    assert float(parts[PARTS.index("kpt")]) <= 4 * HYP.kpt + 1e-6


def test_single_class_learns_to_be_one():
    levels = levels_of()
    total, _ = loss_of()(levels, targets_of())
    assert all((g[..., 5] <= 0).all() for g in gradients(levels, total))
    assert any((g[..., 5] < 0).any() for g in gradients(levels, total))


def test_objectness_wants_the_best_of_several():
    """Two persons in one cell: the cell's target does not depend on their order."""
    levels = levels_of()
    targets = targets_of((4, 0, 0, 0))
    targets.index[:] = targets.index[0]
    a, _ = loss_of()(levels, targets)
    flipped = Targets(*(t.flip(0) for t in targets[:4]), targets.counts)
    b, _ = loss_of()(levels, flipped)
    assert float(a) == pytest.approx(float(b), rel=1e-6)


def test_complete_iou():
    boxes = torch.tensor([[5.0, 5, 4, 2], [0, 0, 2, 2]])
    torch.testing.assert_close(complete_iou(boxes, boxes), torch.ones(2))
    moved = torch.tensor([[7.0, 5, 4, 2], [10, 0, 2, 2]])
    # IoU 4 / 12, centres 2 apart in a hull 6 x 2; no overlap, 10 apart in a hull 12 x 2
    wanted = torch.tensor([1 / 3 - 4 / 40, -100 / 148])
    torch.testing.assert_close(complete_iou(moved, boxes), wanted)
    rng = torch.Generator().manual_seed(0)
    a, b = (torch.rand(500, 4, generator=rng) + 0.01 for _ in range(2))
    value = complete_iou(a, b)
    assert (value <= 1).all() and (value > -2).all()


def test_initial_objectness_of_a_fresh_network():
    """About 8 persons an image, at every anchor, and a class probability of one."""
    from models.yolo import Model

    model = Model(tiny_cfg()).train()
    levels = model(torch.zeros(1, 3, 256, 256))
    expected = sum(float(level[..., 4].sigmoid().sum()) for level in levels)
    assert expected < 50
    for level in levels:
        assert (level[..., 5].sigmoid() > 0.99).all()
