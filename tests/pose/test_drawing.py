import cv2
import numpy as np
import pytest

from utils.pose import drawing
from utils.pose.drawing import Tile, contact_sheet, default_line_width, draw_poses, id_color
from utils.pose.keypoints import CENTER_COLOR, COCO, LEFT_COLOR, RIGHT_COLOR
from utils.pose.poses import Poses, empty_poses


def person(points, box=(5.0, 5, 50, 50), conf=0.9):
    keypoints = np.concatenate([points, np.full((len(points), 1), conf)], 1)
    return Poses(
        np.array([box], np.float32), np.array([0.5], np.float32), np.zeros(1, np.int64),
        keypoints[None].astype(np.float32),
    )  # fmt: skip


def canvas(h=700, w=1300):
    return np.zeros((h, w, 3), np.uint8)


def test_nobody_draws_nothing():
    image = canvas()
    draw_poses(image, empty_poses(17), ["person"])
    assert not image.any()


@pytest.mark.parametrize("xy", [(640, 320), (1280, 640), (640.4, 64), (0.5, 0.5)])
def test_points_on_multiples_of_640_are_drawn(xy):
    image = canvas()
    points = np.full((5, 2), -1e4)
    points[2] = xy
    draw_poses(image, person(points, box=(-50, -50, -40, -40)), ["x"], labels=False)
    x, y = int(xy[0]), int(xy[1])
    assert image[max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2].any()


def test_low_confidence_points_are_not_drawn():
    image = canvas()
    points = np.full((5, 2), 100.0)
    outside = (-50, -50, -40, -40)
    draw_poses(image, person(points, outside, conf=0.5), ["x"], labels=False, kpt_thres=0.5)
    assert not image.any()


def test_left_and_right_have_their_colours():
    image = canvas()
    points = np.full((17, 2), -1e4)
    points[5], points[6] = (200, 100), (100, 100)
    draw_poses(image, person(points, (-50, -50, -40, -40)), ["x"], line_width=4, labels=False)
    assert tuple(image[100, 200]) == LEFT_COLOR and tuple(image[100, 100]) == RIGHT_COLOR


def test_wild_values_do_not_fail():
    points = np.array([[np.nan, 3], [1e9, -1e9], [np.inf, 0], [-5, 20], [30, 30]])
    for box in ((-1e9, -1e9, 1e9, 1e9), (np.nan, 0, 1, 1), (0, 0, 0, 0)):
        draw_poses(canvas(40, 40), person(points, box), ["person"])


def test_label_stays_inside_the_image():
    image = canvas(100, 200)
    draw_poses(image, person(np.full((5, 2), -1e4), (150, 0, 199, 99)), ["a long class name"])
    assert image[:40].any() and image.shape == (100, 200, 3)


def test_line_width_grows_with_the_image():
    assert default_line_width((1, 1)) == 1
    assert default_line_width((2000, 3000)) > default_line_width((480, 640))


def test_names_that_are_not_utf8_end_nothing():
    name = "caf\udce9"
    image = canvas()
    draw_poses(image, person([(100.0, 100)]), [name])
    tile = Tile(canvas(), person([(1.0, 1)]), person([(1.0, 1)]), name + ".jpg: 1 missed")
    assert contact_sheet([tile], [name]).std() > 0


def test_ids_have_colours_and_numbers_of_their_own():
    def drawn(ids, **flags):
        image = np.zeros((200, 300, 3), np.uint8)
        both = zip(person([(0, 0)], (50, 70, 110, 170)), person([(0, 0)], (190, 70, 250, 170)))
        poses = Poses(*map(np.concatenate, both))
        draw_poses(image, poses, ["person"], ids=ids, **flags)
        return image

    plain = {"labels": False, "line_width": 3, "kpt_thres": 1.0}
    one = drawn(np.array([1, 2]), **plain)
    assert tuple(one[120, 49]) == id_color(1) and tuple(one[120, 189]) == id_color(2)
    assert (drawn(np.array([1, 2])) != drawn(np.array([1, 3]))).any()
    colors = [id_color(i) for i in range(1, 9)]
    apart = [np.abs(np.subtract(a, b)).sum() for i, a in enumerate(colors) for b in colors[:i]]
    assert min(apart) > 40


@pytest.mark.parametrize("width", [1, 2, 3, 7])
@pytest.mark.parametrize("colors", [None, tuple((9 * k, 255 - 5 * k, 40) for k in range(17))])
def test_one_call_a_colour_draws_what_line_and_circle_draw(width, colors):
    skel, rng = COCO._replace(colors=colors), np.random.default_rng(width)
    limbs = [(skel.limb_color(*limb), limb) for limb in skel.limbs]
    for _ in range(5):
        image, wanted = canvas(90, 120), canvas(90, 120)
        points = rng.uniform(-10, 120, (17, 2))
        points[3] = np.nan
        confidence = rng.uniform(0, 1, (17, 1))
        keypoints = np.concatenate([points, confidence], 1).astype(np.float32)
        shown = drawing._shown(keypoints[None], 0.4)
        strokes = drawing._strokes(drawing._fixed(keypoints[None, :, :2]), shown, skel, width=width)
        drawing._draw_persons(image, [0], strokes)
        assert (shown[0] == (keypoints[:, 2] > 0.4) & np.isfinite(points).all(1)).all()
        fixed = [tuple(p) for p in drawing._fixed(keypoints[:, :2]).tolist()]
        style = cv2.LINE_AA, drawing.SHIFT
        layers = drawing._layers(skel)[0]
        if colors is None:
            assert [c for c, _ in layers] == [CENTER_COLOR, LEFT_COLOR, RIGHT_COLOR]
        for color, _ in layers:
            for a, b in [limb for c, limb in limbs if c == color]:
                if shown[0, a] and shown[0, b]:
                    cv2.line(wanted, fixed[a], fixed[b], color, width, *style)
        for color, _ in drawing._layers(skel)[1]:
            for k in np.flatnonzero(shown[0]):
                if skel.color(k) == color:
                    cv2.circle(wanted, fixed[k], (width + 1) << drawing.SHIFT, color, -1, *style)
        assert wanted.any() and (image == wanted).all()


def crowd(rng, n, hw):
    """Persons anywhere, also outside of the image, some of them over each other."""
    low = rng.uniform(-20, hw[::-1], (n, 2))
    size = rng.uniform(2, 60, (n, 2))
    points = low[:, None] + rng.uniform(-0.2, 1.2, (n, 17, 2)) * size[:, None]
    keypoints = np.concatenate([points, rng.uniform(0, 1, (n, 17, 1))], 2)
    keypoints[n // 2 :, 3, 0] = np.nan
    boxes = np.concatenate([low, low + size], 1)
    boxes[: n // 4, 0] = [np.nan, -1e9, 1e9][n % 3]
    return Poses(
        boxes.astype(np.float32), np.linspace(1, 0, n).astype(np.float32),
        rng.integers(0, 3, n), keypoints.astype(np.float32),
    )  # fmt: skip


@pytest.mark.parametrize("width", [1, 2, 5, 9])
def test_persons_together_look_as_one_after_the_other(width):
    rng, few, many = np.random.default_rng(width), 0, 0
    for n in range(14):
        poses, image, wanted = crowd(rng, n, (200, 220)), canvas(200, 220), canvas(200, 220)
        ids = rng.integers(0, 9, n) if n % 2 else None
        draw_poses(image, poses, ["x"] * 3, line_width=width, labels=False, ids=ids)
        for i in range(n - 1, -1, -1):
            one = Poses(*(part[i : i + 1] for part in poses))
            alone = None if ids is None else ids[i : i + 1]
            draw_poses(wanted, one, ["x"] * 3, line_width=width, labels=False, ids=alone)
        assert (image == wanted).all()
        shown, points = (
            drawing._shown(poses.keypoints, 0.5),
            drawing._fixed(poses.keypoints[..., :2]),
        )
        few += len(drawing._apart(poses.boxes, points, shown, reach=2 * width))
        many += n
    assert few < many * 0.8  # some were drawn together


def test_persons_take_few_calls(monkeypatch):
    class Counting:
        calls = 0

        def __getattr__(self, name):
            Counting.calls += name.islower()  # not the constants
            return getattr(cv2, name)

    monkeypatch.setattr(drawing, "cv2", Counting())
    points = np.random.default_rng(0).uniform(20, 180, (17, 2))
    one = person(points, (10, 10, 190, 190))
    other = person(points + 200, (210, 210, 390, 390))
    draw_poses(canvas(400, 400), one, ["person"])  # the size of the text is looked up once
    for poses, most in ((one, 9), (Poses(*map(np.concatenate, zip(one, other))), 11)):
        before = Counting.calls
        draw_poses(canvas(400, 400), poses, ["person"])
        # a box, limbs and points of three colours; a label for each
        assert 0 < Counting.calls - before <= most


def test_the_better_of_two_persons_is_in_front():
    image, points = canvas(60, 60), np.full((17, 2), -1e4)
    points[5] = (30, 30)
    both = zip(person(points, (-9, -9, -5, -5)), person(points, (-9, -9, -5, -5)))
    poses = Poses(*map(np.concatenate, both))
    poses.keypoints[1, 6], poses.keypoints[1, 5] = poses.keypoints[1, 5].copy(), (-1e4, -1e4, 0.9)
    draw_poses(image, poses, ["x"], labels=False, line_width=4)
    assert tuple(image[30, 30]) == LEFT_COLOR  # the first; right would be on top within one person
