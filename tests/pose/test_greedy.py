import numpy as np
import pytest

from tests.pose.test_nms import random_case, reference_nms
from utils.pose import greedy


def sorted_case(seed, copies=1):
    """Boxes of `copies` random cases, best first, and the IoU threshold."""
    cases = [random_case(seed * copies + i) for i in range(copies)]
    boxes, scores = np.concatenate([c[0] for c in cases]), np.concatenate([c[1] for c in cases])
    return boxes[np.argsort(-scores, kind="stable")], cases[0][2]


@pytest.mark.parametrize("block", [1, 3, 64])
def test_blocks_of_any_size_equal_the_pairwise_reference(monkeypatch, block):
    monkeypatch.setattr(greedy, "BLOCK", block)
    most = 0
    for seed in range(40):
        boxes, iou_thres = sorted_case(seed, copies=3)
        classes = np.random.default_rng(seed).integers(0, 1 + seed % 3, len(boxes))
        expected = reference_nms(boxes, -np.arange(len(boxes)), classes, iou_thres)
        kept = greedy.greedy_nms(boxes, iou_thres, classes, max_det=10**6)
        assert kept.dtype == np.int64 and kept.tolist() == expected, seed
        few = greedy.greedy_nms(boxes, iou_thres, classes, max_det=7)
        assert few.tolist() == expected[:7]
        most = max(most, len(boxes))
    assert most > 3 * 64


def test_overlap_is_the_arithmetic_of_one_box_with_many():
    for seed in range(20):
        boxes, _ = sorted_case(seed)
        area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
        columns = np.concatenate([boxes.T, area[None]])
        for i, box in enumerate(boxes[:5]):
            iou = greedy.iou_one_to_many(box, area[i], boxes, areas=area)
            for limit in np.unique(iou[np.isfinite(iou)]):  # exactly at a threshold, too
                found = greedy._overlaps(columns[:, i : i + 1], columns, limit)
                np.testing.assert_array_equal(found[0], iou > limit)


def test_nobody_is_kept_of_no_boxes():
    nobody = greedy.greedy_nms(np.zeros((0, 4), np.float32), 0.5, None, max_det=3)
    assert nobody.shape == (0,) and nobody.dtype == np.int64


@pytest.mark.parametrize("rounds, pairs", [(16, 1 << 25), (2, 30_000), (1, 1)])
def test_pytorch_equals_greedy_on_random_sets(monkeypatch, rounds, pairs):
    """Crowds, copies, equal scores, empty boxes, several images at once, long chains."""
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(greedy, "ROUNDS", rounds)
    monkeypatch.setattr(greedy, "MAX_PAIRS", pairs)
    for seed in range(30):
        cases = [sorted_case(seed * 4 + i) for i in range(4)]
        iou_thres = cases[0][1]
        cases.sort(key=lambda case: -len(case[0]))
        counts = [len(case[0]) for case in cases]
        boxes = np.full((4, counts[0] + 1, 4), 20, np.float32)  # behind the last: anything
        for i, (found, _) in enumerate(cases):
            boxes[i, : len(found)] = found
        labels = np.random.default_rng(seed).integers(0, 2, boxes.shape[:2])
        for classes in (None, labels):
            keep = greedy.greedy_nms_torch(
                torch.from_numpy(boxes),
                None if classes is None else torch.from_numpy(classes),
                counts,
                iou_thres=iou_thres,
            )
            for i, (found, _) in enumerate(cases):
                mine = None if classes is None else classes[i, : len(found)]
                expected = greedy.greedy_nms(found, iou_thres, mine, max_det=10**6)
                assert np.flatnonzero(keep[i].numpy()).tolist() == expected.tolist()


def test_a_chain_as_long_as_there_are_boxes():
    torch = pytest.importorskip("torch")
    boxes = np.zeros((1, 200, 4), np.float32)
    boxes[0, :, 0] = np.arange(200) * 4
    boxes[0, :, 2], boxes[0, :, 3] = boxes[0, :, 0] + 10, 10
    keep = greedy.greedy_nms_torch(torch.from_numpy(boxes), None, [200], iou_thres=0.4)
    assert np.flatnonzero(keep[0].numpy()).tolist() == list(range(0, 200, 2))
    on_host = greedy.greedy_nms(boxes[0], 0.4, None, max_det=300)
    assert on_host.tolist() == list(range(0, 200, 2))


def test_groups_hold_everybody_once_and_few_pairs(monkeypatch):
    monkeypatch.setattr(greedy, "MAX_PAIRS", 10_000)
    rng = np.random.default_rng(0)
    for _ in range(50):
        counts = sorted(rng.integers(0, 140, rng.integers(0, 40)).tolist(), reverse=True)
        parts = list(greedy.image_groups(counts))
        covered = [i for images, _ in parts for i in range(len(counts))[images]]
        assert covered[: sum(c > 0 for c in counts)] == [i for i, c in enumerate(counts) if c]
        for images, boxes in parts:
            mine = counts[images]
            assert boxes.stop == max(mine)
            assert len(mine) == 1 or len(mine) * boxes.stop**2 <= 10_000
