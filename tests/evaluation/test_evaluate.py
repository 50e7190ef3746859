import types
import warnings

import numpy as np
import pytest

from tests.conftest import make_pose_onnx, pose_row
from tests.dataset.test_eval_set import read, write_set
from utils.dataset.coco_results import Rows
from utils.errors import InputError, InputWarning
from utils.evaluation import run
from utils.evaluation.config import EvaluateConfig
from utils.evaluation.evaluate import evaluate, measure, worst
from utils.pose.ground_truth import empty_ground_truth
from utils.runtime.load import load_backend
from utils.runtime.predictor import Predictor


def person_row(score=0.9, **options):
    """The person of write_set on a 64 x 64 canvas: 48 x 64 px lie between y = 8 and 56."""
    row = pose_row(32, 32, 32, 24, score, **options)
    row[-51:] = np.tile([32, 32, 0.9], 17)
    return row


def predictor_of(path, **options):
    return Predictor(load_backend(str(path), "cpu"), conf_thres=0.001, iou_thres=0.6, **options)


def test_perfect_predictions(tmp_path):
    onnx = make_pose_onnx(tmp_path / "m.onnx", np.stack([person_row()]))
    found = evaluate(predictor_of(onnx), read(write_set(tmp_path)), progress=False)
    assert found.pose["AP"] == pytest.approx(1.0) and found.box["AP"] == pytest.approx(1.0)
    row = found.accuracy.pose_rows[0]
    assert (row.name, row.images, row.labels, row.precision, row.recall) == ("all", 2, 2, 1.0, 1.0)
    assert found.accuracy.keypoint_oks == pytest.approx(np.ones(17))
    assert worst(found.accuracy.errors, 5) == []
    assert set(found.ms_each) == {"decode", "preprocess", "inference", "nms"}


def test_false_predictions_and_missed_persons(tmp_path):
    rows = np.stack([pose_row(8, 16, 8, 8, 0.9), pose_row(50, 50, 8, 8, 0.8)])
    onnx = make_pose_onnx(tmp_path / "m.onnx", rows)
    found = evaluate(predictor_of(onnx), read(write_set(tmp_path)), progress=False)
    assert found.pose["AP"] == 0 and found.box["AP"] == 0
    assert [e.missed for e in worst(found.accuracy.errors, 5)] == [1, 1]


def test_order_and_batches_do_not_matter(tmp_path):
    names = tuple("%d.jpg" % i for i in range(1, 8))
    onnx = make_pose_onnx(tmp_path / "m.onnx", np.stack([person_row()]), hw=None, batch=None)
    data = write_set(tmp_path, names)
    one = evaluate(predictor_of(onnx, img_size=(64, 64)), read(data), 1, progress=False)
    many = evaluate(predictor_of(onnx, img_size=(64, 64)), read(data), 3, progress=False)
    assert one.pose == many.pose and one.box == many.box
    assert [r.count for r in many.rows] == [1] * 7


def test_other_keypoints_and_classes_are_refused(tmp_path):
    eval_set = read(write_set(tmp_path))
    five = make_pose_onnx(tmp_path / "5.onnx", np.stack([pose_row(9, 9, 9, 9, nkpt=5)]))
    with pytest.raises(InputError, match="the model has 5 keypoints, the data 17"):
        evaluate(predictor_of(five), eval_set)
    names = ("a", "b")
    two = make_pose_onnx(tmp_path / "2.onnx", np.stack([person_row(nc=2, cls=1)]), names=names)
    with pytest.raises(InputError, match=r"the model has 2 classes \(a, b\), the data 1"):
        evaluate(predictor_of(two), eval_set)
    found = evaluate(predictor_of(two), eval_set, single_class=True, progress=False)
    assert found.pose["AP"] == 1


def test_unreadable_image_is_named(tmp_path):
    onnx = make_pose_onnx(tmp_path / "m.onnx", np.stack([person_row()]))
    data = write_set(tmp_path)
    (tmp_path / "images" / "2.jpg").write_bytes(b"no image")
    with pytest.raises(InputError, match=r"2\.jpg: not an image"):
        evaluate(predictor_of(onnx), read(data), progress=False)


def test_several_classes_each_count_alike():
    """Class 0: all found. Class 1: nobody found. Class 2: nobody there."""
    points = np.tile([32.0, 32.0, 2.0], (2, 17, 1))
    ground_truth = empty_ground_truth(17)._replace(
        boxes=np.array([[10.0, 10, 20, 20], [40.0, 40, 20, 20]]), classes=np.array([0, 1]),
        keypoints=points, areas=np.array([200.0, 200.0]), crowd=np.zeros(2, bool),
    )  # fmt: skip
    rows = Rows(ground_truth.boxes[:1], np.array([0.8]), np.array([0]), points[:1])
    found = measure([rows], [ground_truth], [1], ["a", "b", "c"], (0.1,) * 17)
    assert found.pose["AP"] == pytest.approx(0.5) and found.box["AP"] == pytest.approx(0.5)
    by_name = {row.name: row for row in found.pose_rows}
    assert by_name["a"].ap == pytest.approx(1) and by_name["b"].ap == 0
    assert by_name["c"].ap == -1 and by_name["all"].labels == 2
    assert by_name["all"].ap == pytest.approx(0.5)
    assert found.errors[0].missed == 1


def test_no_predictions_at_all():
    none = Rows(np.zeros((0, 4)), np.zeros(0), np.zeros(0, int), np.zeros((0, 17, 3)))
    found = measure([none], [empty_ground_truth(17)], [1], ["a"], (0.1,) * 17)
    assert found.pose["AP"] == -1 and np.isnan(found.keypoint_oks).all()


def test_a_fixed_batch_says_that_another_is_ignored():
    backend = types.SimpleNamespace(on_gpu=True, batch=1, max_batch=None)
    predictor = types.SimpleNamespace(backend=backend)
    with pytest.warns(InputWarning, match="`batch_size` 4 is ignored: .* fixed batch of 1"):
        run.images_at_a_time(EvaluateConfig(["x"], batch_size=4), predictor)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert run.images_at_a_time(EvaluateConfig(["x"], batch_size=1), predictor) == 1
        assert run.images_at_a_time(EvaluateConfig(["x"]), predictor) == 32
