import dataclasses

import numpy as np
import pytest

from utils.dataset.labels import Labels
from utils.device import available_cores
from utils.errors import InputError
from utils.training.config import WORKERS, TrainConfig
from utils.training.train_set import TrainSet, draws_by_need


@pytest.mark.parametrize(
    "change, words",
    [
        ({"cfg": ""}, "`cfg`: expected a network"),
        ({"weights": "x.onnx"}, "^`weights` x.onnx: expected a .pt checkpoint$"),
        ({"evolve": True}, "`evolve` is not available; vary the keys of `hyp`"),
        ({"workers": 257}, "`workers` 257: expected 0 to 256"),
        ({"val_period": 0}, "`val_period` 0: expected 1 to 100000"),
        ({"label_smoothing": 1.0}, "`label_smoothing` 1: expected 0 to 1"),
        ({"img_size": []}, "`img_size`: expected one number"),
    ],
)
def test_values_that_cannot_be(change, words):
    with pytest.raises(InputError, match=words):
        TrainConfig(**{"cfg": "x.yaml", **change})


def test_written_form():
    config = TrainConfig(cfg="x.yaml")
    found = config.plain()
    assert list(found) == [f.name for f in dataclasses.fields(TrainConfig)]
    assert (found["img_size"], found["workers"], config.size) == (
        [640],
        min(WORKERS, available_cores()),
        (640, 640),
    )
    assert TrainConfig(**found).plain() == found


def test_batch_is_shared_alike():
    assert TrainConfig(cfg="x.yaml", batch_size=6).share_of_batch(2) == 3
    with pytest.raises(InputError, match="`batch_size` 5: cannot be divided by 2 GPUs; try 4"):
        TrainConfig(cfg="x.yaml", batch_size=5).share_of_batch(2)


def test_draws_by_need():
    """The class that is badly found is drawn more often, and as many images as before in total."""
    labels = [
        Labels(np.array([c]), np.full((1, 4), 0.5), np.zeros((1, 2, 3))) for c in (0, 0, 1, 1)
    ]
    train_set = TrainSet([""] * 4, np.full((4, 2), 64), labels, np.array([1.0, 1, 1, 3]), [])
    draws = draws_by_need(train_set, [0.5, 0.0], 2)
    np.testing.assert_allclose(draws, np.array([1, 1, 4, 12]) / 3)
    np.testing.assert_allclose(draws_by_need(train_set, [], 2), train_set.repeats)
