import numpy as np
import pytest

from utils.errors import InputError
from utils.quantization import activation_ranges
from utils.quantization.activation_ranges import LEVELS, Histogram


def silu(x):
    return x / (1 + np.exp(-x))


def filled(*images):
    histogram = Histogram()
    for image in images:
        histogram.add(np.asarray(image, np.float32))
    return histogram


def int8_error(values, limit):
    scale = limit / LEVELS
    return float(((np.clip(np.round(values / scale), -128, 127) * scale - values) ** 2).mean())


def test_minmax_is_exact():
    assert activation_ranges.minmax(filled([0.1, -3.7], [2.0])) == np.float32(3.7)


@pytest.mark.parametrize("seed", range(5))
def test_percentile_is_numpys(seed):
    values = np.random.default_rng(seed).standard_normal(20000).astype(np.float32) * 10**seed
    for percent in (50, 99, 99.9):
        ours = activation_ranges.percentile(filled(values), percent)
        assert ours == pytest.approx(np.percentile(np.abs(values), percent), rel=0.02)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("shape", [silu, np.asarray, np.abs], ids=["silu", "gauss", "positive"])
def test_mse_is_near_the_best_range(seed, shape):
    rng = np.random.default_rng(seed)
    values = shape(rng.standard_normal(50000) * rng.uniform(0.3, 20)).astype(np.float32)
    values[:5] *= 8  # outliers
    best = min(int8_error(values, limit) for limit in np.abs(values).max() * np.geomspace(0.05, 1))
    assert int8_error(values, activation_ranges.mse(filled(values))) < 1.15 * best


def test_one_odd_image_does_not_cost_the_others_their_bits():
    rng = np.random.default_rng(0)
    usual = [silu(rng.standard_normal(5000) * 2) for _ in range(50)]
    odd = silu(rng.standard_normal(5000) * 60)
    alone, together = (
        activation_ranges.mse(filled(*usual)),
        activation_ranges.mse(filled(*usual, odd)),
    )
    assert together < 1.3 * alone < 0.2 * activation_ranges.minmax(filled(*usual, odd))


def with_foreground(image, mask=None):
    histogram = Histogram()
    histogram.add(np.asarray(image, np.float32), mask)
    return histogram


@pytest.mark.parametrize("seed", range(5))
def test_foreground_has_the_range_that_is_best_there(seed):
    rng = np.random.default_rng(seed)
    mask = np.zeros((64, 64), bool)
    mask[:24, :40] = True
    image = silu(rng.standard_normal((8, 32, 32)) * 2).astype(np.float32)
    image[:, 12:], image[:, :, 20:] = image[:, 12:] * 5, image[:, :, 20:] * 5
    inside = image[:, :12, :20]
    best = min(int8_error(inside, limit) for limit in np.abs(inside).max() * np.geomspace(0.05, 1))
    found = activation_ranges.foreground(with_foreground(image, mask))
    assert int8_error(inside, found) < 1.15 * best
    assert 1.5 * found < activation_ranges.mse(
        with_foreground(image)
    )  # which looks at the rest, too
    # of one image without a mask both are the same
    assert activation_ranges.foreground(with_foreground(image)) == activation_ranges.mse(
        with_foreground(image)
    )


def test_foreground_on_few_images_are_not_cut_off():
    """What is large on one image in ten keeps more of its size than by the logarithm."""
    rng = np.random.default_rng(0)
    usual = [silu(rng.standard_normal(5000)) for _ in range(27)]
    large = [silu(rng.standard_normal(5000) * 8) for _ in range(3)]
    histogram = filled(*usual, *large)
    assert (
        1.2 * activation_ranges.mse(histogram)
        < activation_ranges.foreground(histogram)
        < activation_ranges.minmax(histogram)
    )


def test_nobody_there():
    image, nobody = np.random.default_rng(0).standard_normal((2, 8, 8)), np.zeros((16, 16), bool)
    assert (
        activation_ranges.foreground(with_foreground(image, nobody))
        == activation_ranges.mse(with_foreground(image))
        > 0
    )


def test_masks_of_raw_predictions():
    raw = np.zeros((3, 4, 57), np.float32)
    raw[0, 0, :5] = 8, 16, 4, 8, 0.9  # x 6 to 10, y 12 to 20
    raw[0, 1, :5] = 30, 30, 60, 60, 0.1  # not sure enough
    raw[1, 2, :5] = 0, 31, 10, 10, 0.5  # reaches over the border
    first, second, third = activation_ranges.foreground_masks([raw], (3, 3, 32, 64))
    assert first.shape == (32, 64) and third is None
    ys, xs = np.nonzero(first)
    assert (ys.min(), ys.max(), xs.min(), xs.max()) == (12, 20, 6, 10)
    assert second.sum() == 6 * 6 and second[31, 0] and second[26, 5]
    assert activation_ranges.foreground_masks([raw[:, :, 0]], (3, 3, 32, 64)) == [None] * 3


def test_masks_of_a_model_with_nms_inside():
    boxes, scores = np.zeros((2, 3, 4)), np.ones((2, 3, 1))
    found = [np.array([[1], [0]]), np.zeros((2, 3, 3)), boxes, np.zeros((2, 3, 51)), scores]
    boxes[:, 0] = 6, 12, 10, 20
    first, second = activation_ranges.foreground_masks(found, (2, 3, 32, 64))
    assert first.sum() == 5 * 9 and first[12:21, 6:11].all() and second is None


def test_together_the_values_of_several_decide():
    a, b = filled([0.1, 1.0]), filled([3.0, 0.2])
    found = activation_ranges.choose({"a": a, "b": b}, "MinMax", {"a": ["a", "b"], "b": ["b"]})
    assert found == {"a": 3.0, "b": 3.0} and a.amax == 1.0
    assert activation_ranges.choose({"a": a, "b": b}, "MinMax") == {"a": 1.0, "b": 3.0}


def test_entropy_clips_a_tail_and_keeps_a_box():
    rng = np.random.default_rng(0)
    tail = np.concatenate([rng.standard_normal(100000), [40.0]])
    assert 2 < activation_ranges.entropy(filled(tail)) < 20
    box = rng.uniform(-1, 1, 100000)
    assert activation_ranges.entropy(filled(box)) > 0.9


def test_passes_add_up():
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((2, 3000))
    merged, both = filled(a), filled(a, b)
    merged.merge(filled(b))
    assert (merged.counts == both.counts).all() and merged.amax == both.amax
    assert merged.images == 2
    np.testing.assert_allclose(merged.log_error, both.log_error)
    np.testing.assert_allclose(merged.ratio, both.ratio)


@pytest.mark.parametrize("method", list(activation_ranges.METHODS))
def test_a_tensor_of_zeros(method):
    assert activation_ranges.choose({"x": filled(np.zeros(10))}, method) == {"x": 0.0}
    assert activation_ranges.choose({"x": Histogram()}, method) == {"x": 0.0}


def test_not_finite():
    for value in (np.nan, np.inf):
        with pytest.raises(ValueError, match="not finite"):
            filled([1.0, value])


def test_unknown_method():
    with pytest.raises(
        InputError, match="`calib_method` Max: expected Entropy, Foreground, MinMax"
    ):
        activation_ranges.choose({}, "Max")


def test_collect_counts_every_image(tmp_path):
    onnx = pytest.importorskip("onnx")
    from tests.small_net import make_small_net, run_onnx

    path = make_small_net(tmp_path / "x.onnx", batch=2)
    model = onnx.load(str(path))
    batches = list(np.random.default_rng(0).random((3, 2, 3, 64, 64), np.float32))
    names = ["input", "stem_out", "residual_out"]
    found = activation_ranges.collect(model, batches, names)
    assert list(found) == names and found["stem_out"].images == 6
    assert found["input"].amax == np.max(batches)
    assert found["stem_out"].counts.sum() == 6 * 8 * 32 * 32
    assert len(run_onnx(path, batches[0])) == 1  # the model itself got no outputs
    with pytest.raises(ValueError, match="no tensor nobody"):
        activation_ranges.collect(model, [], ["nobody"])
