"""Layout: what the values of a model's output mean, and their way into our own layout.

    layout = find_layout((1, 56, 8400), nc=1, kpt_shape=(17, 3))
    raw = layout.to_raw(output)          # (B, N, 5 + nc + 3K), what utils/pose/nms.py reads

Layouts of other exporters, as far as they are known here (docs/other-models.md):

| model | shape | values of a prediction |
|---|---|---|
| ours, YOLOv7-w6-pose | (B, N, 5 + nc + 3K) | cx cy w h objectness, nc classes, K x (x y conf) |
| YOLOv8, 11, 12, 26 pose | (B, 4 + nc + DK, N) | cx cy w h, nc classes, K x (x y) or (x y conf) |
| the same, NMS inside | (B, 300, 6 + DK) | x1 y1 x2 y2 score class, K points, best first |

Coordinates are pixels of the input, scores and confidences are after the sigmoid.
"""

import ast
import json
from typing import TYPE_CHECKING, Any, NamedTuple, Optional, Sequence, Tuple

import numpy as np

from utils.errors import InputError
from utils.pose.keypoints import COCO_NAMES

if TYPE_CHECKING:
    from utils.arrays import Array

SUPPRESSED_ROWS = 300  # of an image, in the files of other exporters with NMS inside
WAY_OUT = (
    'let the file say it: metadata task "pose", names, kpt_shape [K, 3] or [K, 2]; for an engine '
    "the same as JSON in <engine>.json"
)
Dims = Sequence[Optional[int]]  # of an output, None where dynamic


class Layout(NamedTuple):
    """The values of one prediction, and how predictions lie in the output."""

    nc: int
    nkpt: int
    kpt_values: int = 3  # x y confidence; 2: x y alone
    objectness: bool = True  # stands before the class scores
    turned: bool = False  # (B, values, predictions), else (B, predictions, values)
    suppressed: bool = False  # after NMS, corners, one score and one class, best first

    @property
    def width(self) -> int:
        """Values of a prediction in the file."""
        head = 6 if self.suppressed else 4 + self.objectness + self.nc
        return head + self.nkpt * self.kpt_values

    @property
    def is_ours(self) -> bool:
        """The output is what the toolkit's own exporter writes, without NMS."""
        return self == Layout(self.nc, self.nkpt)

    def __str__(self) -> str:
        points = "%d x (%s)" % (self.nkpt, "x y conf" if self.kpt_values == 3 else "x y")
        if self.suppressed:
            return "rows x1 y1 x2 y2 score class, %s" % points
        objectness = " objectness" if self.objectness else ""
        order = "values x predictions" if self.turned else "predictions x values"
        scores = "class score" if self.nc == 1 else "class scores"
        return "%s of cx cy w h%s, %d %s, %s" % (order, objectness, self.nc, scores, points)

    def to_raw(self, output: "Array") -> "Array":
        """The output as (B, N, 5 + nc + 3K): objectness 1 and confidence 1 where it has none.

        Values are moved, never computed. NumPy arrays and torch tensors on any device; ours is
        returned as it is.

        Raises InputError if the width is another one, ValueError for a layout after NMS.
        """
        if self.suppressed:
            raise ValueError("predictions after NMS have no raw form")
        rows = output.swapaxes(1, 2) if self.turned else output
        self._check_width(rows)
        if self.is_ours:
            return rows
        shape = (rows.shape[0], rows.shape[1], 5 + self.nc + 3 * self.nkpt)
        raw: Any = np.ones(shape, np.float32)
        if not isinstance(rows, np.ndarray):
            raw = rows.float().new_ones(shape)
        first, ours = 4 + self.objectness, 5 + self.nc
        raw[..., :4] = rows[..., :4]
        if self.objectness:
            raw[..., 4] = rows[..., 4]
        raw[..., 5:ours] = rows[..., first : first + self.nc]
        for value in range(self.kpt_values):
            raw[..., ours + value :: 3] = rows[..., first + self.nc + value :: self.kpt_values]
        return raw

    def to_detections(self, output: "Array") -> Tuple[np.ndarray, ...]:
        """Rows after NMS as the five arrays of `Detections` (utils/runtime/backend.py).

        Args: output: (B, rows, 6 + DK). Rows with score 0 are empty. The row of the raw output is
        not known: -1.

        Raises InputError if they are no such rows.
        """
        rows = np.asarray(output.cpu() if hasattr(output, "cpu") else output, np.float32)
        self._check_width(rows)
        used = rows[..., 4] > 0
        order = np.argsort(-np.where(used, rows[..., 4], -1), axis=1, kind="stable")
        rows = np.take_along_axis(rows, order[..., None], 1)
        used = np.take_along_axis(used, order, 1)
        classes = rows[..., 5][used]
        if not np.isin(classes, np.arange(self.nc)).all():
            raise InputError(
                "the model is read as having NMS inside, and column 5 of its output holds %g where "
                "a class, 0 to %d, is expected; %s"
                % (classes[~np.isin(classes, np.arange(self.nc))][0], self.nc - 1, WAY_OUT)
            )
        rows[~used] = 0
        batch, count = used.shape
        indices = np.full((batch, count, 3), -1, np.int32)
        indices[..., 0][used] = np.nonzero(used)[0]
        indices[..., 1][used] = classes
        pose = np.ones((batch, count, 3 * self.nkpt), np.float32)
        for value in range(self.kpt_values):
            pose[..., value::3] = rows[..., 6 + value :: self.kpt_values]
        pose[~used] = 0
        return (
            used.sum(1, keepdims=True, dtype=np.int32),
            indices,
            rows[..., :4],
            pose,
            rows[..., 4:5],
        )

    def _check_width(self, rows: Any) -> None:
        if rows.ndim != 3 or rows.shape[2] != self.width:
            raise InputError(
                "the model answers an output of shape %s, expected %s" % (tuple(rows.shape), self)
            )


MAX_TEXT = 1 << 20  # characters of a value in metadata


def decode_text(text: str) -> Any:
    """A value of a file's metadata: JSON, or the text of a Python value, as other exporters write
    it; any other text as it is."""
    if len(text) > MAX_TEXT:
        return text
    for decode in (json.loads, ast.literal_eval):
        try:
            return decode(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
            continue
    return text


def find_layout(
    dims: Dims,
    nc: int,
    kpt_shape: Optional[Tuple[int, int]] = None,
    *,
    suppressed: bool = False,
) -> Layout:
    """The layout of the only output of a file by another exporter.

    Args:
        dims: of the output, None where dynamic. nc: number of class names.
        kpt_shape: (keypoints, values of each) of the metadata; None: it says nothing, and only 17
            keypoints of three values are taken where the width has several readings.
        suppressed: the metadata says that NMS is inside, or that the model needs none.

    Raises ValueError (reason only) for an output that is none of these layouts.
    """
    if len(dims) != 3:
        raise ValueError("output of shape %s, expected three dimensions" % _text(dims))
    nkpt, values = kpt_shape or (len(COCO_NAMES), 3)
    after = Layout(nc, nkpt, values, suppressed=True)
    turned = Layout(nc, nkpt, values, objectness=False, turned=True)
    rows = Layout(nc, nkpt)
    found = []
    if dims[2] == after.width and (suppressed or dims[1] == SUPPRESSED_ROWS):
        found.append(after)
    elif not suppressed:
        # predictions are more than the values of one
        if dims[1] == turned.width and (dims[2] is None or dims[2] > dims[1]):
            found.append(turned)
        if values == 3 and dims[2] == rows.width and dims[1] != SUPPRESSED_ROWS:
            found.append(rows)
    if len(found) == 1:
        return found[0]
    if kpt_shape is None:
        raise ValueError(
            "output of shape %s without kpt_shape in the metadata; %s" % (_text(dims), WAY_OUT)
        )
    raise ValueError(
        "output of shape %s, but %d classes and kpt_shape [%d, %d] of the metadata make %s"
        % (_text(dims), nc, nkpt, values, "%dx%d with NMS inside" % (SUPPRESSED_ROWS, after.width)
           if suppressed else "%d values x predictions" % turned.width)
    )  # fmt: skip


def _text(dims: Dims) -> str:
    return "x".join("?" if d is None else str(d) for d in dims)
