"""What an engine is timed on."""

import types

import numpy as np
import pytest

from utils.trt import layers


@pytest.mark.parametrize("dtype, top", [(np.float32, 1), (np.float16, 1), (np.uint8, 255)])
def test_engines_are_timed_on_noise(monkeypatch, dtype, top):
    """Zeros may run faster than images, those of a uint8 input included."""
    fed = []

    class Engine:
        inputs = [types.SimpleNamespace(name="x", shape=(1, 3, 8, 8), dtype=np.dtype(dtype))]
        profile = None

        def __init__(self, *_, cuda_graph):
            assert not cuda_graph

        def __call__(self, feed):
            fed.append(feed["x"])

        def layer_milliseconds(self):
            return {}

    monkeypatch.setattr(layers, "Engine", Engine)
    layers.layer_times(None, b"", None)
    (values,) = fed
    assert values.dtype == dtype and values.shape == (1, 3, 8, 8)
    assert 0.3 * top < values.mean() < 0.7 * top and values.std() > 0.2 * top
