import itertools

import numpy as np
import pytest

from utils.tracking.assignment import assign


def cases(count, most=8):
    """Random similarities, dense and sparse, some with equal values, and a threshold."""
    rng = np.random.default_rng(0)
    for k in range(count):
        shape = rng.integers(0, most + 1, 2)
        similarity = rng.random(shape) * (rng.random(shape) < rng.random())
        yield np.round(similarity, 1) if k % 5 == 0 else similarity, rng.choice([0, 0.2, 0.5])


def test_equals_scipy():
    optimize = pytest.importorskip("scipy.optimize")
    for similarity, threshold in cases(500):
        rows, columns = assign(similarity, threshold)
        gain = np.where(similarity >= threshold, similarity, 0)
        best = gain[optimize.linear_sum_assignment(gain, maximize=True)].sum()
        assert similarity[rows, columns].sum() == pytest.approx(best)


def test_each_once_above_the_threshold_and_the_best_of_all():
    for similarity, threshold in cases(100, most=4):
        rows, columns = assign(similarity, threshold)
        assert len(set(rows)) == len(rows) and len(set(columns)) == len(columns)
        assert (similarity[rows, columns] >= threshold).all() and (np.diff(rows) > 0).all()
        gain = np.where(similarity >= threshold, similarity, 0)
        gain = gain if gain.shape[0] <= gain.shape[1] else gain.T
        tries = itertools.permutations(range(gain.shape[1]), gain.shape[0])
        best = max(sum(gain[i, j] for i, j in enumerate(choice)) for choice in tries)
        assert similarity[rows, columns].sum() == pytest.approx(best)


def test_the_sum_counts_not_the_best_pair():
    rows, columns = assign(np.array([[0.9, 0.8], [0.8, 0.1]]), 0.2)
    assert rows.tolist() == [0, 1] and columns.tolist() == [1, 0]


@pytest.mark.parametrize("shape", [(0, 0), (0, 3), (3, 0)])
def test_nobody(shape):
    rows, columns = assign(np.zeros(shape), 0.2)
    assert rows.shape == columns.shape == (0,)
