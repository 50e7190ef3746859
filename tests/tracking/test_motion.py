import numpy as np

from utils.tracking.motion import BoxMotion


def full_filter(boxes):
    """One coordinate at a time with 2 x 2 matrices, as the textbook has it."""
    from utils.tracking import motion as m

    def position(box):
        return np.concatenate([(box[:2] + box[2:]) / 2, box[2:] - box[:2]])

    state = position(boxes[0])
    height = state[3]
    means = [np.array([v, 0.0]) for v in state]
    covs = [np.diag([(2 * m.MEASURED * height) ** 2, (m.FIRST_SPEED * height) ** 2])] * 4
    move, see = np.array([[1.0, 1.0], [0, 1]]), np.array([[1.0, 0.0]])
    for box in boxes[1:]:
        height = means[3][0]
        noise = np.diag([(m.MOVED * height) ** 2, (m.ACCELERATED * height) ** 2])
        means = [move @ x for x in means]
        covs = [move @ p @ move.T + noise for p in covs]
        measured, r = position(box), (m.MEASURED * means[3][0]) ** 2
        for k in range(4):
            gain = covs[k] @ see.T / (see @ covs[k] @ see.T + r)
            means[k] = means[k] + gain[:, 0] * (measured[k] - means[k][0])
            covs[k] = (np.eye(2) - gain @ see) @ covs[k]
    return np.array(means), np.array(covs)


def test_equals_the_filter_with_matrices():
    rng = np.random.default_rng(0)
    start = np.array([100.0, 50, 160, 230])
    boxes = [start + t * np.array([3, 1, 3.2, 1]) + rng.normal(0, 2, 4) for t in range(20)]
    motion = BoxMotion()
    motion.add(boxes[0][None])
    for box in boxes[1:]:
        motion.predict(np.zeros(1, bool))
        motion.correct(np.array([0]), box[None])
    means, covs = full_filter(boxes)
    np.testing.assert_allclose(motion.position[0], means[:, 0])
    np.testing.assert_allclose(motion.velocity[0], means[:, 1])
    np.testing.assert_allclose(motion.variance[0], covs[:, 0, 0])
    np.testing.assert_allclose(motion.covariance[0], covs[:, 0, 1])
    np.testing.assert_allclose(motion.velocity_variance[0], covs[:, 1, 1])


def test_a_lost_box_moves_on_and_keeps_its_size():
    motion = BoxMotion()
    boxes = np.array([[0.0, 0, 40, 100], [500, 0, 540, 100]])
    motion.add(boxes)
    for t in range(1, 30):  # the first walks right and shrinks
        motion.predict(np.zeros(2, bool))
        boxes[0] = [4 * t, 0, 40 + 3 * t, 100]
        motion.correct(np.array([0, 1]), boxes)
    size = motion.position[0, 2:].copy()
    for _ in range(10):
        motion.predict(np.array([True, False]))
    np.testing.assert_allclose(motion.position[0, 2:], size)
    assert 25 < motion.position[0, 0] - boxes[0, [0, 2]].mean() < 45  # 3.5 px a frame
    np.testing.assert_allclose(motion.boxes[1], boxes[1], atol=1e-6)


def test_select_and_add_keep_rows_together():
    motion = BoxMotion()
    motion.add(np.array([[0, 0, 10, 10.0], [5, 5, 25, 25], [9, 9, 19, 29]]))
    motion.select(np.array([True, False, True]))
    motion.add(np.array([[1, 1, 3, 3.0]]))
    np.testing.assert_allclose(motion.boxes, [[0, 0, 10, 10], [9, 9, 19, 29], [1, 1, 3, 3]])
    assert motion.variance.shape == motion.velocity_variance.shape == (3, 4)
