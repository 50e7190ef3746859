"""Ranges of activations: from histograms to the largest magnitude an INT8 tensor should hold.

    histograms = collect(model, batches, names)      # ONNX Runtime, any machine
    amax = {name: METHODS["Mse"](h) for name, h in histograms.items()}

A calibration method (`--calib_method`) is a function of a Histogram in METHODS.

TensorRT quantises symmetrically: q = clip(round(x / scale), -128, 127), scale = amax / 127. SiLU
leaves nearly the whole negative half empty (its minimum is -0.278), so seven bits carry the values
and every method that spends them on a few outliers loses accuracy.
"""

import functools
from typing import TYPE_CHECKING, Any, Callable, Dict, Iterable, List, Optional, Sequence

import numpy as np

from utils.errors import InputError

if TYPE_CHECKING:
    from onnx import ModelProto
    from onnxruntime import InferenceSession

LEVELS = 127
# Bins are the upper bits of a float32 without sign: 128 bins an octave, 0.8 % wide, every magnitude
# there is. So one pass over the images is enough, and histograms of several passes add up.
SHIFT = 16
BINS = 0x7F800000 >> SHIFT
PERCENTILE = 99.99
OBJECTNESS = slice(4, 5)  # column of raw predictions
MIN_OBJECTNESS = 0.2  # of a box whose pixels count as foreground
_edges = (np.arange(BINS + 1, dtype=np.int64) << SHIFT).astype(np.int32).view(np.float32)
_edges[-1] = np.finfo(np.float32).max
CENTERS = _edges[:-1] / 2 + _edges[1:] / 2
# Ranges that the Mse method tries: 12 an octave, 0.001 to 65536
LIMITS = 2.0 ** np.arange(-10, 16 + 1e-9, 1 / 12)


class Histogram:
    """Magnitudes of one tensor over many images.

    Attributes: counts, (BINS,) int64 of |x| by the upper bits; amax, the largest |x|, exact;
        log_error, (len(LIMITS),) sum over images of the log of the mean squared INT8 error at each
        range; ratio, the sum of the mean squared error over the mean square, of images where any
        of the pixels looked at is; images, how many, all of them.
    """

    def __init__(self) -> None:
        self.counts = np.zeros(BINS, np.int64)
        self.log_error = np.zeros(len(LIMITS))
        self.ratio = np.zeros(len(LIMITS))
        self.amax, self.images = 0.0, 0

    def add(self, values: np.ndarray, foreground: Optional[np.ndarray] = None) -> None:
        """Count the float values of one image, any shape. Raises ValueError for NaN, infinity.

        Args: foreground: (height, width) bool, the only pixels of (C, height, width) `values` that
        `ratio` looks at; the shape may be another one. None: all of them.
        """
        flat = np.abs(np.asarray(values, np.float32)).ravel()
        largest = float(flat.max()) if flat.size else 0.0
        if not np.isfinite(largest):
            raise ValueError("not finite")
        counts = np.bincount(flat.view(np.int32) >> SHIFT, minlength=BINS)
        self.amax = max(self.amax, largest)
        self.counts += counts
        self.images += 1
        used = np.flatnonzero(counts)
        error = squared_errors()[:, used] @ counts[used].astype(np.float32)
        self.log_error += np.log(np.maximum(error / max(flat.size, 1), 1e-30))
        if foreground is not None:
            flat = np.abs(
                values[:, resized(foreground, values.shape[1:])], dtype=np.float32
            ).ravel()
            counts = np.bincount(flat.view(np.int32) >> SHIFT, minlength=BINS)
            used = np.flatnonzero(counts)
            error = squared_errors()[:, used] @ counts[used].astype(np.float32)
        power = float(np.square(flat, dtype=np.float64).sum())
        if power:
            self.ratio += error / power

    def merge(self, other: "Histogram") -> None:
        """Add another one's images."""
        self.counts += other.counts
        self.log_error += other.log_error
        self.ratio += other.ratio
        self.amax = max(self.amax, other.amax)
        self.images += other.images


def resized(mask: np.ndarray, hw: Sequence[int]) -> np.ndarray:
    """A (height, width) bool mask at another size, by the nearest pixel."""
    rows, columns = ((np.arange(n) + 0.5) * m / n for n, m in zip(hw, mask.shape))
    return mask[rows.astype(np.int64)[:, None], columns.astype(np.int64)]


@functools.lru_cache(maxsize=None)
def squared_errors(power: float = 2.0) -> np.ndarray:
    """(len(LIMITS), BINS) float32 error of a value when the range is a limit.

    Rounding errors are uniform in +- scale / 2, mean square scale^2 / 12; values below half a
    step become 0, values beyond the range the limit.
    """
    values = CENTERS.astype(np.float64)
    table = np.empty((len(LIMITS), BINS), np.float32)
    for row, limit in zip(table, LIMITS):
        scale = limit / LEVELS
        error = np.full(BINS, 0.5**power / (power + 1) * scale**power)
        error = np.where(values < scale / 2, values**power, error)
        beyond = np.minimum(np.abs(values - limit), 1e15) ** power
        row[:] = np.where(values > limit, beyond, error)
    return table


def minmax(histogram: Histogram) -> float:
    """The largest magnitude seen (TensorRT's MinMax calibrator)."""
    return histogram.amax


def percentile(histogram: Histogram, percent: float = PERCENTILE) -> float:
    """The magnitude that `percent` of all values do not exceed."""
    counts = histogram.counts
    total = counts.sum()
    if not total:
        return histogram.amax
    at = int(np.searchsorted(np.cumsum(counts), total * percent / 100.0))
    return min(float(_edges[min(at + 1, BINS)]), histogram.amax)


def mse(histogram: Histogram) -> float:
    """The range with the least error of rounding and clipping together, image by image.

    Least mean *logarithm* of the squared error, that is the best mean signal-to-noise ratio in
    dB. A plain mean of squares belongs to the one odd image in a hundred whose activations are
    ten times as large, and takes four bits from all the others.
    """
    if not histogram.images or not histogram.amax:
        return histogram.amax
    best = int(histogram.log_error.argmin())
    return min(float(LIMITS[best]), histogram.amax)


def foreground(histogram: Histogram) -> float:
    """The range with the least error over the signal, inside the boxes that the model finds.

    The mean over images of noise to signal, no logarithm: what a person's activations lose by
    clipping counts on the few images where they are large, and noise where they are small. The
    sky and the grey border do not count. Without a box it is that of all pixels.
    """
    if not histogram.ratio.any():
        return mse(histogram)
    return min(float(LIMITS[int(histogram.ratio.argmin())]), histogram.amax)


def entropy(histogram: Histogram, bins: int = 2048) -> float:
    """The magnitude that loses least information (Kullback-Leibler divergence).

    Migacz, "8-bit inference with TensorRT", GTC 2017: of linear histograms cut after 128, 129, ...
    bins, the one whose merge into 128 levels is nearest to it, the tail counted in its last bin.
    """
    counts = _linear(histogram, bins)
    if not counts.sum():
        return histogram.amax
    counts[0] = counts[1]  # values near 0 are exact at any scale, and would decide alone
    levels = LEVELS + 1
    best, least = bins, np.inf
    tails = counts[::-1].cumsum()[::-1]
    for stop in range(levels, bins + 1, 4):
        reference = counts[:stop].copy()
        if stop < bins:
            reference[-1] += tails[stop]
        if not reference.any():
            continue
        level = np.arange(stop) * levels // stop
        filled = counts[:stop] > 0
        total = np.bincount(level, counts[:stop], levels)
        share = np.bincount(level, filled, levels)
        merged = np.where(filled, total[level] / np.maximum(share[level], 1), 0.0)
        if not merged.any():
            continue
        p, q = reference / reference.sum(), merged / merged.sum()
        both = p > 0
        loss = float((p[both] * np.log(p[both] / np.maximum(q[both], 1e-12))).sum())
        if loss < least:
            best, least = stop, loss
    return histogram.amax * best / bins


def _linear(histogram: Histogram, bins: int) -> np.ndarray:
    """Counts over equal bins up to amax; a bin that spans several is spread evenly."""
    if not histogram.amax:
        return np.zeros(bins)
    cumulative = np.concatenate([[0], np.cumsum(histogram.counts)]).astype(np.float64)
    edges = np.minimum(_edges.astype(np.float64), histogram.amax)
    at = np.interp(np.linspace(0, histogram.amax, bins + 1), edges, cumulative)
    return np.diff(at)


METHODS: Dict[str, Callable[[Histogram], float]] = {
    "MinMax": minmax,
    "Entropy": entropy,
    "Percentile": percentile,
    "Mse": mse,
    "Foreground": foreground,
}


def choose(
    histograms: Dict[str, Histogram],
    method: str,
    together: Optional[Dict[str, List[str]]] = None,
) -> Dict[str, float]:
    """Largest magnitude of each tensor by the method named. Raises InputError for another name.

    Args: together: tensor -> those whose values decide its range; others decide for themselves.
    """
    names = {name.lower(): name for name in METHODS}
    if method.lower() not in names:
        raise InputError("`calib_method` %s: expected %s" % (method, ", ".join(sorted(METHODS))))
    function = METHODS[names[method.lower()]]
    amax = {}
    for name, histogram in histograms.items():
        of = (together or {}).get(name, [name])
        if of != [name]:
            histogram = Histogram()
            for other in of:
                histogram.merge(histograms[other])
        amax[name] = function(histogram)
    return amax


def with_outputs(model: "ModelProto", names: Sequence[str]) -> bytes:
    """The model, serialized, with further tensors as outputs; unknown names are an error."""
    import onnx
    from onnx import helper

    wider = onnx.ModelProto()
    wider.CopyFrom(model)
    made = {name for node in model.graph.node for name in node.output}
    missing = [name for name in names if name not in made]
    if missing:
        raise ValueError("no tensor %s" % missing[0])
    present = {o.name for o in wider.graph.output}
    for name in names:
        if name not in present:
            wider.graph.output.append(helper.make_empty_tensor_value_info(name))
    return wider.SerializeToString()


def open_session(model: bytes) -> "InferenceSession":
    """ONNX Runtime on the CPU, the graph as it is (no fusion that would remove a tensor)."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what it has to say is in its exception
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def collect(
    model: "ModelProto",
    batches: Iterable[np.ndarray],
    names: Sequence[str],
    *,
    on_batch: Optional[Callable[[int, Dict[str, Histogram]], None]] = None,
    find_foreground: bool = True,
) -> Dict[str, Histogram]:
    """Histograms of tensors over batches of images, in ONNX Runtime on the CPU.

    Args:
        model: onnx.ModelProto. batches: (B, 3, H, W) float32 RGB 0..1, B as the model takes.
        names: of the graph's input or of tensors in it.
        on_batch: called with the number of images of each batch and the histograms so far.
        find_foreground: let `Histogram.ratio` look only at the boxes that the model finds, if any.
    """
    inner = [name for name in names if name != model.graph.input[0].name]
    outputs = [o.name for o in model.graph.output] if find_foreground else []
    asked = list(dict.fromkeys([*outputs, *inner]))
    session = open_session(with_outputs(model, inner))
    entry = session.get_inputs()[0]
    dtype = np.float16 if entry.type == "tensor(float16)" else np.float32
    histograms = {name: Histogram() for name in names}
    sure = sure_columns(model)
    for batch in batches:
        feed = {entry.name: batch.astype(dtype, copy=False)}
        found = dict(zip(asked, session.run(asked, feed))) if asked else {}
        masks = foreground_masks([found[name] for name in outputs], batch.shape, sure)
        for name in inner:
            try:
                for image, mask in zip(found[name], masks):
                    histograms[name].add(image, mask if image.ndim == 3 else None)
            except ValueError as e:
                raise InputError("calibration: tensor %s has values that are %s" % (name, e)) from e
        if entry.name in histograms:
            for image, mask in zip(batch, masks):
                histograms[entry.name].add(image, mask)
        if on_batch is not None:
            on_batch(len(batch), histograms)
    return histograms


def sure_columns(model: "ModelProto") -> slice:
    """The columns of a ModelProto's raw output of which the largest tells how sure a box is.

    The objectness; of imported models, whose objectness is 1, the class scores.
    """
    values = {entry.key: entry.value for entry in model.metadata_props}
    if values.get("objectness") == "false":
        return slice(5, 5 + int(values.get("nc", "1")))
    return OBJECTNESS


def foreground_masks(
    outputs: Sequence[np.ndarray], shape: Sequence[int], sure: slice = OBJECTNESS
) -> List[Optional[np.ndarray]]:
    """(H, W) bool of each image of a (B, 3, H, W) batch: the boxes found; None where nobody is.

    Args: outputs: raw predictions, or what embedded NMS returns (Detections).
    Others: nobody is found. sure: see sure_columns.
    """
    count, _, height, width = shape
    masks: List[Any] = [None] * count
    for i in range(count):
        if len(outputs) == 1 and outputs[0].ndim == 3 and outputs[0].shape[2] > 5:
            rows = outputs[0][i]
            center, size = np.split(
                rows[rows[:, sure].max(1) > MIN_OBJECTNESS, :4].astype(np.float64), 2, 1
            )
            boxes = np.concatenate([center - size / 2, center + size / 2], 1)
        elif len(outputs) == 5:
            n, scores = int(outputs[0][i][0]), outputs[4][i].reshape(-1)
            boxes = outputs[2][i][:n][scores[:n] > MIN_OBJECTNESS].astype(np.float64)
        else:
            continue
        limits = [width, height, width, height]
        boxes = np.clip(np.nan_to_num(boxes), 0, limits)
        if len(boxes):
            masks[i] = np.zeros((height, width), bool)
        for left, top, right, bottom in boxes.astype(np.int64):
            masks[i][top : bottom + 1, left : right + 1] = True
    return masks
