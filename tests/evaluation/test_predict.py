import json
import time

import numpy as np
import pytest

from tests.conftest import make_pose_onnx
from tests.dataset.test_eval_set import read, write_set
from tests.evaluation.test_evaluate import person_row, predictor_of
from utils.errors import InputError
from utils.evaluation.evaluate import evaluate
from utils.evaluation.predict import SCORED_LATER, STAGES, batches, predict
from utils.pipeline import StageTimer


def test_images_of_one_canvas_share_batches(tmp_path):
    onnx = make_pose_onnx(tmp_path / "m.onnx", np.stack([person_row()]), hw=None, batch=None)
    data = write_set(tmp_path, ("1.jpg", "3.jpg"), hw=(50, 100))
    write_set(tmp_path, ("2.jpg", "4.jpg"), hw=(100, 50))
    (tmp_path / "val.txt").write_text("".join("images/%d.jpg\n" % i for i in (1, 2, 3, 4)))
    eval_set = read(data)
    found = batches(predictor_of(onnx, img_size=(128, 128)), eval_set, 8)
    assert sorted(found) == [([0, 2], 2), ([1, 3], 2)]
    square = predictor_of(onnx, img_size=(128, 128), auto=False)
    assert batches(square, eval_set, 3) == [([0, 1, 2], 3), ([3], 1)]


def test_on_a_gpu_the_last_batch_has_the_shape_of_the_others(tmp_path):
    """The images that fill it up count for nothing; a lone small batch is not filled."""
    rows = np.stack([person_row()])
    onnx = make_pose_onnx(tmp_path / "m.onnx", rows, hw=None, batch=None)
    eval_set = read(write_set(tmp_path, tuple("%d.jpg" % i for i in range(1, 6))))
    predictor, shapes = predictor_of(onnx), []
    wanted = list(predict(predictor, eval_set, 3, timer=StageTimer(STAGES)))
    predictor.backend.on_gpu = True
    assert batches(predictor, eval_set, 3) == [([0, 1, 2], 3), ([3, 4], 3)]
    assert batches(predictor, eval_set, 8) == [([0, 1, 2, 3, 4], 5)]
    infer = predictor.infer
    predictor.infer = lambda views: shapes.append(len(views[0].batch)) or infer(views)
    found = list(predict(predictor, eval_set, 3, timer=StageTimer(STAGES)))
    assert shapes == [3, 3] and len(wanted) == len(found) == 2
    for ours, theirs in zip(found, wanted):
        assert [(i, hw) for i, hw, _ in ours] == [(i, hw) for i, hw, _ in theirs]
        assert all(np.array_equal(a.boxes, b.boxes) for (*_, a), (*_, b) in zip(ours, theirs))


def test_batches_of_a_model_that_says_how_many(tmp_path):
    onnx = make_pose_onnx(tmp_path / "m.onnx", np.stack([person_row()]), batch=2)
    eval_set = read(write_set(tmp_path, ("1.jpg", "2.jpg", "3.jpg")))
    assert batches(predictor_of(onnx), eval_set, 32) == [([0, 1], 2), ([2], 1)]
    assert evaluate(predictor_of(onnx), eval_set, 32, progress=False).pose["AP"] == 1


def test_size_that_the_json_contradicts_is_named_at_once(tmp_path):
    data = write_set(tmp_path, with_json=True)
    content = json.loads((tmp_path / "val.json").read_text())
    content["images"][0]["width"] = 65
    (tmp_path / "val.json").write_text(json.dumps(content))
    predictor = predictor_of(make_pose_onnx(tmp_path / "m.onnx", np.stack([person_row()])))
    with pytest.raises(InputError, match=r"1\.jpg: 48x64 px .* says 48x65"):
        next(predict(predictor, read(data), 1, timer=StageTimer(STAGES)))


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
