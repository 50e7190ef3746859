import json
import time
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
from utils.evaluation.evaluate import (
    SCORED_LATER,
    STAGES,
    batches,
    evaluate,
    measure,
    predict,
    worst,
)
from utils.pipeline import StageTimer
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


def test_images_of_one_canvas_share_batches(tmp_path):
    onnx = make_pose_onnx(tmp_path / "m.onnx", np.stack([person_row()]), hw=None, batch=None)
    data = write_set(tmp_path, ("1.jpg", "3.jpg"), hw=(50, 100))
    write_set(tmp_path, ("2.jpg", "4.jpg"), hw=(100, 50))
    (tmp_path / "val.txt").write_text("".join("images/%d.jpg\n" % i for i in (1, 2, 3, 4)))
    eval_set = read(data)
    assert sorted(batches(predictor_of(onnx, img_size=(128, 128)), eval_set, 8)) == [[0, 2], [1, 3]]
    square = predictor_of(onnx, img_size=(128, 128), auto=False)
    assert batches(square, eval_set, 3) == [[0, 1, 2], [3]]


def test_batches_of_a_model_that_says_how_many(tmp_path):
    onnx = make_pose_onnx(tmp_path / "m.onnx", np.stack([person_row()]), batch=2)
    eval_set = read(write_set(tmp_path, ("1.jpg", "2.jpg", "3.jpg")))
    assert batches(predictor_of(onnx), eval_set, 32) == [[0, 1], [2]]
    assert evaluate(predictor_of(onnx), eval_set, 32, progress=False).pose["AP"] == 1


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


def test_size_that_the_json_contradicts_is_named_at_once(tmp_path):
    data = write_set(tmp_path, with_json=True)
    content = json.loads((tmp_path / "val.json").read_text())
    content["images"][0]["width"] = 65
    (tmp_path / "val.json").write_text(json.dumps(content))
    predictor = predictor_of(make_pose_onnx(tmp_path / "m.onnx", np.stack([person_row()])))
    with pytest.raises(InputError, match=r"1\.jpg: 48x64 px .* says 48x65"):
        next(predict(predictor, read(data), 1, timer=StageTimer(STAGES)))


def test_a_fixed_batch_says_that_another_is_ignored():
    backend = types.SimpleNamespace(on_gpu=True, batch=1, max_batch=None)
    predictor = types.SimpleNamespace(backend=backend)
    with pytest.warns(InputWarning, match="`batch_size` 4 is ignored: .* fixed batch of 1"):
        run.images_at_a_time(EvaluateConfig(["x"], batch_size=4), predictor)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert run.images_at_a_time(EvaluateConfig(["x"], batch_size=1), predictor) == 1
        assert run.images_at_a_time(EvaluateConfig(["x"]), predictor) == 32


def test_inference_goes_on_while_the_caller_is_busy_and_stops_in_time(tmp_path):
    """As many batches as may wait, and no more: the memory stays bounded."""
    names = tuple("%d.jpg" % i for i in range(1, 25))
    onnx = make_pose_onnx(tmp_path / "m.onnx", np.stack([person_row()]))
    predictor = predictor_of(onnx)
    inferred = []
    infer = predictor.infer
    predictor.infer = lambda prepared: inferred.append(1) or infer(prepared)
    found = predict(predictor, read(write_set(tmp_path, names)), 1, timer=StageTimer(STAGES))
    assert next(found)[0][0] == 0
    until = time.monotonic() + 5
    while len(inferred) <= SCORED_LATER and time.monotonic() < until:
        time.sleep(0.01)
    time.sleep(0.2)  # nobody takes anything, so nothing more is made
    workers = predictor.backend.workers
    assert SCORED_LATER < len(inferred) <= SCORED_LATER + 2 * workers + 3 < 24
    assert [i for batch in found for i, _, _ in batch] == list(range(1, 24))
