import numpy as np
import pytest

from utils.pose import nms

torch = pytest.importorskip("torch")

from utils.pose import fixed_nms  # noqa: E402
from utils.pose.fixed_nms import FixedNms, NmsSettings  # noqa: E402


def crowd(seed, *, batch=2, count=400, nc=1, nkpt=2):
    """(B, N, 5 + nc + 3K) raw output: clusters, copies, equal scores, boxes without area."""
    rng = np.random.default_rng(seed)
    raw = rng.random((batch, count, 5 + nc + 3 * nkpt)).astype(np.float32)
    raw[..., :2] = rng.integers(0, 5, (batch, count, 2)) * 40 + rng.normal(0, 6, (batch, count, 2))
    raw[..., 2:4] *= 60
    raw[:, : count // 4] = raw[:, count // 4 : count // 4 * 2]
    raw[:, -5:, 2:4] = 0
    if seed % 2:
        raw[..., 4:6] = np.round(raw[..., 4:6], 1)
    return raw


def each_found_by(raw, nc, settings):
    suppress = FixedNms(settings, nc, "cpu")
    return suppress.poses(suppress(torch.from_numpy(raw)).numpy())


def found_by(raw, nc, settings):
    found = each_found_by(raw, nc, settings)
    return None if any(poses is None for poses in found) else found


def same(found, wanted):
    assert len(found) == len(wanted)
    for mine, reference in zip(found, wanted):
        for a, b in zip(mine, reference):
            assert a.dtype == b.dtype and a.shape == b.shape and np.array_equal(a, b)


@pytest.mark.parametrize("agnostic", [False, True])
@pytest.mark.parametrize("nc, classes", [(1, None), (3, None), (3, (0, 2))])
def test_equals_greedy_nms_or_says_that_it_cannot_tell(nc, classes, agnostic):
    told = 0
    for seed in range(20):
        raw = crowd(seed, nc=nc)
        settings = NmsSettings(0.3, (0.3, 0.45, 0.6)[seed % 3], agnostic, 40, classes)
        found = found_by(raw, nc, settings)
        if found is not None:
            told += 1
            same(found, nms.raw_to_poses(raw, nc, **settings._asdict()))
    assert told > 10


def test_rows_that_are_not_finite_are_nobody():
    raw = crowd(1)
    raw[0, 3, 7], raw[0, 9, 4], raw[1, 5, 0] = np.inf, np.nan, np.nan
    settings = NmsSettings(0.3, 0.45)
    same(found_by(raw, 1, settings), nms.raw_to_poses(raw, 1, **settings._asdict()))


def test_nobody():
    raw = crowd(2)
    raw[..., 4] = 0
    found = found_by(raw, 1, NmsSettings(0.3, 0.45))
    assert [p.count for p in found] == [0, 0] and found[0].keypoints.shape == (0, 2, 3)


def test_fewer_rows_than_candidates_and_more_poses_than_asked_for():
    raw = crowd(4, count=30)
    settings = NmsSettings(0.3, 0.9, max_det=3)
    found = found_by(raw, 1, settings)
    same(found, nms.raw_to_poses(raw, 1, **settings._asdict()))
    assert max(p.count for p in found) == 3


def test_too_many_candidates_are_told_of_each_image(monkeypatch):
    monkeypatch.setattr(fixed_nms, "MOST", 16)
    raw, settings = crowd(3, batch=3), NmsSettings(0.3, 0.45, max_det=100)
    assert each_found_by(raw, 1, settings) == [None] * 3
    raw[1, 12:, 4] = 0
    found = each_found_by(raw, 1, settings)
    assert found[0] is None is found[2]
    same(found[1:2], nms.raw_to_poses(raw[1:2], 1, **settings._asdict()))


def test_as_many_poses_as_asked_for_are_enough(monkeypatch):
    """Candidates that follow cannot change them."""
    monkeypatch.setattr(fixed_nms, "MOST", 64)
    for seed in range(8):
        raw = crowd(seed)
        settings = NmsSettings(0.3, 0.45, max_det=5)
        same(each_found_by(raw, 1, settings), nms.raw_to_poses(raw, 1, **settings._asdict()))


def test_a_chain_that_is_too_long_is_told():
    """Boxes in a row, each overlapping only its neighbours: every second one stays."""
    raw = np.zeros((1, 40, 12), np.float32)
    raw[0, :, 0] = np.arange(40) * 10
    raw[0, :, 1:6] = 50, 25, 20, 1, 1
    raw[0, :, 4] = np.linspace(0.9, 0.5, 40)
    settings = NmsSettings(0.3, 0.2)
    assert found_by(raw, 1, settings) is None
    short = raw[:, :5]
    same(found_by(short, 1, settings), nms.raw_to_poses(short, 1, **settings._asdict()))


def test_half_precision_raw_output():
    raw = crowd(6).astype(np.float16)
    settings = NmsSettings(0.3, 0.45)
    same(
        found_by(raw, 1, settings),
        nms.raw_to_poses(raw.astype(np.float32), 1, **settings._asdict()),
    )


def test_thresholds_that_the_fixed_sizes_do_not_serve():
    assert fixed_nms.fits(NmsSettings(0.25, 0.45), 1)
    assert not fixed_nms.fits(NmsSettings(0.001, 0.6), 1)
    assert not fixed_nms.fits(NmsSettings(0.25, 0.45), 64)
    assert not fixed_nms.fits(NmsSettings(0.25, 0.45, max_det=5000), 1)
