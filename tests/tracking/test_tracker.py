import numpy as np
import pytest

from tests.tracking.crowd import Person, crowd, film, walk
from tests.tracking.mot_figures import mot_figures
from utils.errors import InputError
from utils.pose.poses import Poses, empty_poses
from utils.tracking.tracker import Tracker, TrackerConfig

SURE = TrackerConfig(high_thres=0.5)


def run(people, config=SURE, **film_flags):
    """Moments of a film, what the tracker says of them, and {person: its IDs in order}."""
    moments = film(people, **film_flags)
    tracker = Tracker(config)
    results = [tracker.update(m.found) for m in moments]
    given = {}
    for moment, tracked in zip(moments, results):
        for box, track in zip(tracked.poses.boxes, tracked.ids):
            row = np.flatnonzero((moment.found.boxes == box).all(1))[0]
            if moment.ground_truth_of[row] >= 0:
                person = int(moment.ids[moment.ground_truth_of[row]])
                ids = given.setdefault(person, [])
                if not ids or ids[-1] != track:
                    ids.append(int(track))
    return moments, results, given


def test_everybody_keeps_one_id():
    people = [walk((100 + 200 * i, 300), (1.5, 0.2), 60) for i in range(5)]
    _, results, given = run(people)
    assert sorted(given.values()) == [[1], [2], [3], [4], [5]]
    assert all(r.poses.count == 5 for r in results)
    for tracked in results:  # rows of the detections, best score first
        assert (np.diff(tracked.poses.scores) <= 0).all()
        assert tracked.poses.keypoints.shape == (5, 17, 3)


@pytest.mark.parametrize("oks_weight", [0.0, 0.3])
@pytest.mark.parametrize("depth", [12, 40])
def test_two_who_cross_keep_their_ids(oks_weight, depth):
    """In front of one another; for some frames only the nearer one is found."""
    people = [
        walk((200, 300), (5, 0), 100),
        walk((700, 300 + depth), (-5, 0), 100, height=180),
    ]
    config = TrackerConfig(high_thres=0.5, oks_weight=oks_weight)
    moments, _, given = run(people, config)
    assert any(m.found.count == 1 for m in moments)
    assert sorted(given.values()) == [[1], [2]]


def test_ten_frames_behind_a_pillar():
    """Nobody is found for ten frames, and the same ID comes out."""
    person = walk((100, 300), (6, 0), 100)
    moments, results, given = run([person], walls=[[300, 0, 392, 600]])
    gap = [m.found.count for m in moments].count(0)
    assert 10 <= gap <= 14 and given == {0: [1]}
    assert run([person], TrackerConfig(0.5, max_lost=5), walls=[[300, 0, 392, 600]])[2] == {
        0: [1, 2]
    }


def test_who_leaves_and_returns_later_is_new_and_no_id_comes_twice():
    person = walk((400, 300), (3, 0), 120)
    here = np.ones(120, bool)
    here[40:80] = False
    moments, results, given = run([person._replace(present=here), walk((800, 300), (0, 0), 120)])
    assert given == {0: [1, 3], 1: [2]} or given == {0: [2, 3], 1: [1]}


def test_low_scores_keep_a_half_hidden_person():
    """A bench hides 60 % of a person, whose score falls to about 0.3."""
    person = walk((100, 300), (6, 0), 100)
    wall = [[250, 286, 450, 600]]
    _, with_low, given = run([person], walls=wall)
    _, without, _ = run([person], TrackerConfig(0.5, 0.5), walls=wall)
    assert given == {0: [1]}
    assert sum(r.poses.count for r in with_low) == 100
    assert sum(r.poses.count for r in without) < 80


def test_who_comes_out_half_hidden_keeps_the_id():
    """Behind a wall for a while, then behind a bench: the first scores after the gap are low."""
    person = walk((100, 300), (6, 0), 100)
    moments, results, given = run([person], walls=[[250, 0, 320, 600], [320, 290, 480, 600]])
    scores = [float(m.found.scores.max(initial=0)) for m in moments]
    gap = scores.index(0)
    out = next(i for i in range(gap, 100) if scores[i])
    assert 0.1 < scores[out] < 0.5 and results[out].poses.count == 1
    assert given == {0: [1]}


def test_low_scores_start_no_track():
    poses = film([walk((100, 300), (0, 0), 1)])[0].found
    tracker = Tracker(SURE)
    for _ in range(5):
        assert tracker.update(poses._replace(scores=poses.scores * 0 + 0.4)).poses.count == 0


def test_a_false_detection_of_one_frame_has_no_id():
    people = [walk((300, 300), (1, 0), 200)]
    _, results, given = run(people, false_rate=0.1)
    assert given == {0: [1]} and {int(i) for r in results for i in r.ids} == {1}


def test_a_new_person_has_an_id_from_the_second_frame_on():
    here = np.arange(20) >= 5
    people = [walk((300, 300), (1, 0), 20), Person(walk((600, 300), (1, 0), 20).boxes, here)]
    _, results, _ = run(people)
    assert [r.poses.count for r in results] == [1] * 6 + [2] * 14


def test_classes_do_not_mix():
    first = film([walk((300, 300), (0, 0), 1)])[0].found
    other = first._replace(classes=first.classes + 1)
    tracker = Tracker(SURE)
    assert tracker.update(first).ids.tolist() == [1]
    assert tracker.update(other).ids.tolist() == []
    assert tracker.update(other).ids.tolist() == [2]


def test_keypoints_separate_who_boxes_do_not():
    """Two persons in one box, one upright, one bowing, swap the order of their scores."""
    upright = film([walk((300, 300), (0, 0), 1)], noise=0)[0].found
    keypoints = upright.keypoints.copy()
    keypoints[..., 1] = 2 * 300 - keypoints[..., 1]
    rng = np.random.default_rng(0)

    def frame(first, second):
        boxes = np.concatenate([upright.boxes] * 2) + rng.normal(0, 3, (2, 4))
        return Poses(
            boxes.astype(np.float32),
            np.array([0.9, 0.8], np.float32),
            np.zeros(2, np.int64),
            np.concatenate([first, second]),
        )

    def swaps(weight):
        tracker, count = Tracker(TrackerConfig(0.5, oks_weight=weight)), 0
        names = tracker.update(frame(upright.keypoints, keypoints)).ids.tolist()
        for turn in range(20):
            pair = (upright.keypoints, keypoints)[:: 1 if turn % 2 else -1]
            ids = tracker.update(frame(*pair)).ids.tolist()
            count += ids != names[:: 1 if turn % 2 else -1]
        return count

    assert swaps(0.5) == 0 < swaps(0.0)


def test_nobody_at_all():
    tracker = Tracker()
    for _ in range(3):
        tracked = tracker.update(empty_poses(17))
        assert tracked.poses.count == 0 and tracked.ids.shape == (0,)
    assert tracker.count == 0


def test_restart_forgets_persons_but_not_numbers():
    poses = film([walk((300, 300), (0, 0), 1)])[0].found
    tracker = Tracker(SURE)
    assert tracker.update(poses).ids.tolist() == [1]
    tracker.restart()
    assert tracker.update(poses).ids.tolist() == [2] and tracker.count == 2


def test_order_of_equal_frames_changes_nothing():
    """Tracks do not depend on the order in which detections of equal rank come."""
    moments = film(crowd(10, 60, seed=3))
    one, other = Tracker(SURE), Tracker(SURE)
    for moment in moments:
        found = moment.found
        flipped = found.select(np.arange(found.count)[::-1])
        a, b = one.update(found), other.update(flipped)
        pairs = {tuple(box): i for box, i in zip(a.poses.boxes.tolist(), a.ids.tolist())}
        assert len(
            {(pairs[tuple(x)], i) for x, i in zip(b.poses.boxes.tolist(), b.ids.tolist())}
        ) == (a.poses.count)


def test_crowd_by_trackeval():
    """20 persons who cross, pass pillars, leave and return; the second stage must help."""
    pytest.importorskip("trackeval")
    walls = [[500, 0, 540, 720], [900, 0, 930, 720]]
    figures, without = [], []
    for seed in range(3):
        moments = film(crowd(20, 300, seed), walls=walls, seed=seed, false_rate=0.1)
        for config, to in ((SURE, figures), (TrackerConfig(0.5, 0.5), without)):
            tracker = Tracker(config)
            to.append(mot_figures(moments, [tracker.update(m.found) for m in moments]))
    mean = {k: np.mean([f[k] for f in figures]) for k in figures[0]}
    less = {k: np.mean([f[k] for f in without]) for k in without[0]}
    assert mean["IDF1"] > 0.88 and mean["HOTA"] > 0.77 and mean["IDSW"] < 5, mean
    assert mean["IDF1"] > less["IDF1"] + 0.02 and mean["HOTA"] > less["HOTA"] + 0.02


@pytest.mark.parametrize(
    "values, word",
    [
        ({"high_thres": 1.5}, "high_thres"),
        ({"oks_weight": -0.1}, "oks_weight"),
        ({"low_thres": float("nan")}, "low_thres"),
        ({"max_lost": 0}, "max_lost"),
    ],
)
def test_values_that_cannot_be(values, word):
    with pytest.raises(InputError, match="`%s`" % word):
        TrackerConfig(**values)
