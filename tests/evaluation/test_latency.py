import numpy as np
import pytest

from utils.evaluation import latency


class Recorder:
    """A predictor that notes what it gets."""

    def __init__(self, batch):
        self.backend, self.batch, self.sizes = self, batch, []

    def preprocess(self, images):
        self.sizes.append([int(i) for i in images])
        return images

    def infer(self, prepared):
        return prepared

    def postprocess(self, raws, prepared):
        return raws

    def engine_ms(self):
        return None


@pytest.mark.parametrize("batch", [None, 2])
def test_all_batches_are_full(batch):
    predictor = Recorder(batch)
    times = latency.measure(predictor, range(5), 2)
    assert predictor.sizes[latency.WARM_UP :] == [[0, 1], [2, 3], [4, 0]]
    assert len(times.total) == 3


def test_fewer_images_than_a_batch():
    predictor = Recorder(8)
    latency.measure(predictor, range(3))
    assert predictor.sizes[-1] == [0, 1, 2, 0, 1, 2, 0, 1]


def test_images_a_second_are_images_over_seconds():
    times = latency.Latency({s: np.array([1.0, 3.0]) for s in latency.STAGES})
    assert times.images_per_s == pytest.approx(1000 / 6)
