import numpy as np

from utils.dataset.labels import Labels
from utils.training import anchors
from utils.training.train_set import TrainSet


def set_of(wh, hw=(100, 200)):
    n = len(wh)
    boxes = np.concatenate([np.full((n, 2), 0.5), wh], 1)
    labels = Labels(np.zeros(n, np.int64), boxes, np.zeros((n, 1, 3)))
    return TrainSet(["a"], np.array([hw]), [labels], np.ones(1), [])


def test_box_sizes_are_those_of_the_fitted_image():
    found = anchors.box_sizes(set_of(np.array([[0.5, 0.5], [0.001, 0.5]])), (400, 400))
    np.testing.assert_allclose(found, [[200, 100]])


def test_best_recall():
    wh = np.array([[10.0, 10], [100, 10], [39, 39], [41, 10]])
    assert anchors.best_recall(wh, np.array([[10.0, 10]]), 4.0) == 0.5
    assert anchors.best_recall(np.zeros((0, 2)), np.array([[10.0, 10]]), 4.0) == 1.0


def test_fitting_anchors_stay_and_others_are_replaced():
    rng = np.random.default_rng(0)
    small = set_of(rng.uniform(0.01, 0.05, (300, 2)))
    fitting = np.full((2, 3, 2), 6.0)
    recall, kept = anchors.check(small, fitting, (200, 200), anchor_t=4.0)
    assert recall > 0.98 and kept is fitting
    far = np.full((2, 3, 2), 500.0)
    recall, found = anchors.check(small, far, (200, 200), anchor_t=4.0)
    assert recall == 0 and found.shape == (2, 3, 2)
    assert (
        anchors.best_recall(anchors.box_sizes(small, (200, 200)), found.reshape(-1, 2), 4.0) > 0.99
    )
    areas = found.prod(2).ravel()
    assert (np.diff(areas) >= 0).all()
    np.testing.assert_array_equal(found, anchors.check(small, far, (200, 200), anchor_t=4.0)[1])


def test_too_few_boxes_keep_the_anchors():
    far = np.full((2, 3, 2), 500.0)
    assert anchors.check(set_of(np.array([[0.02, 0.02]])), far, (200, 200), anchor_t=4.0)[1] is far
