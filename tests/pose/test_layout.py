import numpy as np
import pytest

from utils.errors import InputError
from utils.pose.layout import Layout, decode_text, find_layout

OURS, TURNED = Layout(1, 17), Layout(1, 17, objectness=False, turned=True)
AFTER = Layout(1, 17, suppressed=True)


@pytest.mark.parametrize(
    "dims, nc, kpt_shape, suppressed, wanted",
    [
        ((1, 56, 8400), 1, (17, 3), False, TURNED),
        ((1, 56, None), 1, (17, 3), False, TURNED),
        ((1, 56, 8400), 1, None, False, TURNED),
        ((1, 47, 2100), 1, (21, 2), False, Layout(1, 21, 2, objectness=False, turned=True)),
        ((None, 59, None), 4, (17, 3), False, TURNED._replace(nc=4)),
        ((1, 300, 57), 1, (17, 3), False, AFTER),
        ((1, 300, 57), 1, (17, 3), True, AFTER),
        ((1, 100, 57), 2, (17, 3), True, AFTER._replace(nc=2)),
        ((1, 300, 57), 1, None, False, AFTER),
        ((1, 300, 48), 1, (21, 2), True, Layout(1, 21, 2, suppressed=True)),
        ((1, 25500, 57), 1, (17, 3), False, OURS),
        ((1, None, 57), 1, (17, 3), False, OURS),
    ],
    ids=str,
)
def test_layouts_that_are_known(dims, nc, kpt_shape, suppressed, wanted):
    assert find_layout(dims, nc, kpt_shape, suppressed=suppressed) == wanted


@pytest.mark.parametrize(
    "dims, nc, kpt_shape, suppressed, words",
    [
        ((1, 1000), 1, None, False, "three dimensions"),
        ((1, 84, 8400), 80, None, False, "without kpt_shape"),  # detection
        ((1, 47, 2100), 1, None, False, "without kpt_shape"),  # 14 x 3 or 21 x 2
        ((1, 300, 48), 1, None, False, "without kpt_shape"),
        ((1, 56, 8400), 2, (17, 3), False, r"2 classes and kpt_shape \[17, 3\].* 57 values"),
        ((1, 56, 8400), 1, (5, 3), False, "20 values"),
        ((1, 56, 8400), 1, (17, 3), True, "300x57 with NMS inside"),
        ((1, 8400, 56), 1, (17, 3), False, "56 values x predictions"),
        ((1, 300, 56), 1, (17, 3), False, "56 values x predictions"),
    ],
    ids=str,
)
def test_layouts_that_are_not(dims, nc, kpt_shape, suppressed, words):
    with pytest.raises(ValueError, match=words) as error:
        find_layout(dims, nc, kpt_shape, suppressed=suppressed)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("nc", [1, 3])
@pytest.mark.parametrize("values", [2, 3])
@pytest.mark.parametrize("tensor", ["numpy", "torch"])
def test_values_are_moved_bit_for_bit(nc, values, tensor):
    layout = Layout(nc, 5, values, objectness=False, turned=True)
    output = np.random.default_rng(0).standard_normal((2, layout.width, 40)).astype(np.float32)
    if tensor == "torch":
        torch = pytest.importorskip("torch")
        raw = layout.to_raw(torch.from_numpy(output)).numpy()
    else:
        raw = layout.to_raw(output)
    rows = output.transpose(0, 2, 1)
    assert raw.shape == (2, 40, 5 + nc + 15) and raw.dtype == np.float32
    np.testing.assert_array_equal(raw[..., :4], rows[..., :4])
    np.testing.assert_array_equal(raw[..., 4], 1)
    np.testing.assert_array_equal(raw[..., 5 : 5 + nc], rows[..., 4 : 4 + nc])
    points = raw[..., 5 + nc :].reshape(2, 40, 5, 3)
    wanted = rows[..., 4 + nc :].reshape(2, 40, 5, values)
    np.testing.assert_array_equal(points[..., :values], wanted)
    if values == 2:
        np.testing.assert_array_equal(points[..., 2], 1)


def test_ours_is_not_copied():
    raw = np.zeros((1, 3, 57), np.float32)
    assert OURS.to_raw(raw) is raw


def test_rows_after_nms():
    rows = np.zeros((2, 300, 6 + 34), np.float32)
    rows[0, 0, :6], rows[0, 1, :6] = [1, 2, 3, 4, 0.5, 1], [5, 6, 7, 8, 0.9, 0]  # not in order
    rows[0, 0, 6:] = np.arange(34)
    layout = Layout(2, 17, 2, suppressed=True)
    count, index, boxes, pose, scores = layout.to_detections(rows)
    assert count.tolist() == [[2], [0]] and pose.shape == (2, 300, 51)
    assert index[0, :3].tolist() == [[0, 0, -1], [0, 1, -1], [-1, -1, -1]]
    np.testing.assert_array_equal(boxes[0, :2], [[5, 6, 7, 8], [1, 2, 3, 4]])
    np.testing.assert_array_equal(scores[0, :3, 0], np.float32([0.9, 0.5, 0]))
    np.testing.assert_array_equal(pose[0, 1, :6], [0, 1, 1, 2, 3, 1])
    assert not pose[0, 2:].any() and not pose[1].any()


def test_raw_rows_are_not_taken_for_rows_after_nms():
    rows = np.random.default_rng(0).random((1, 300, 57)).astype(np.float32)
    with pytest.raises(InputError, match="column 5 of its output holds 0.* where a class"):
        AFTER.to_detections(rows)


def test_another_width_is_refused():
    with pytest.raises(InputError, match=r"shape \(1, 40, 57\), expected values x predictions"):
        TURNED.to_raw(np.zeros((1, 57, 40), np.float32))
    with pytest.raises(ValueError, match="no raw form"):
        AFTER.to_raw(np.zeros((1, 300, 57), np.float32))


@pytest.mark.parametrize(
    "text, value",
    [("pose", "pose"), ('"pose"', "pose"), ("[17, 3]", [17, 3]), ("{0: 'a'}", {0: "a"}),
     ("True", True), ("true", True), ("((((", "((((")],
)  # fmt: skip
def test_text_of_metadata(text, value):
    assert decode_text(text) == value
