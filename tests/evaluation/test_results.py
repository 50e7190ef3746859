import json

import numpy as np
import pytest

from tests.dataset.test_eval_set import read, write_set
from tests.evaluation.test_metrics import random_image
from utils.dataset.coco_results import result_json
from utils.evaluation import results
from utils.evaluation.evaluate import Evaluation


@pytest.mark.parametrize("empty", [(), (0,), (0, 1, 2)])
def test_json_written_image_by_image_is_the_whole(tmp_path, empty):
    eval_set = read(write_set(tmp_path, ("1.jpg", "2.jpg", "3.jpg")))
    rng = np.random.default_rng(1)
    rows = [random_image(rng, 1, 5, 12)[1] for _ in range(3)]
    rows = [type(r)(*(f[:0] for f in r)) if i in empty else r for i, r in enumerate(rows)]
    evaluation = Evaluation(None, rows, [], [], 3, {}, 1.0, 1.0)
    results.write_json(tmp_path, eval_set, evaluation)
    whole = [e for i, r in enumerate(rows, 1) for e in result_json(r, i, [1])]
    assert json.loads((tmp_path / "predictions.json").read_text()) == whole


def test_names_that_tell_files_apart():
    assert results.short_names(["a/x.onnx", "b/y.onnx"]) == ["x.onnx", "y.onnx"]
    names = results.short_names(["a/x.onnx", "b/x.onnx", "c/y.onnx"])
    assert names == ["a/x.onnx", "b/x.onnx", "y.onnx"]
