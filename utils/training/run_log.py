"""What a training run leaves behind for people: results.csv, curves, images of its data.

log = TrainLog(folder)
log.add({"epoch": 1, "loss": 0.5})
"""

import csv
import io
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, List, Optional, Sequence, Union

import cv2
import numpy as np

from utils.errors import InputError
from utils.evaluation import charts
from utils.files import atomic_path
from utils.pose.drawing import draw_ground_truth
from utils.pose.ground_truth import GroundTruth
from utils.pose.keypoints import AREA_OF_BOX, Skeleton
from utils.reading import read_text
from utils.training.augment import Persons

if TYPE_CHECKING:
    import torch

DRAWN_IMAGES = 16  # of a batch that are drawn
TILE = 320  # px
Row = Dict[str, float]


class TrainLog:
    """The table of a run, a row an epoch; with TensorBoard beside it where it is installed."""

    def __init__(self, folder: Path, rows: Sequence[Row] = ()):
        self.folder, self.rows = folder, list(rows)
        self._writer: Optional[Any] = None
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            return
        self._writer = SummaryWriter(str(folder))

    def add(self, row: Row) -> None:
        """One epoch, in place of its row if it has one; writes results.csv whole."""
        self.rows = [r for r in self.rows if r["epoch"] != row["epoch"]] + [row]
        table = io.StringIO(newline="")
        keys = list(dict.fromkeys(key for r in self.rows for key in r))
        writer = csv.DictWriter(table, keys, restval="", lineterminator="\n")
        writer.writeheader()
        for r in self.rows:
            writer.writerow({k: "%.6g" % v for k, v in r.items()})
        with atomic_path(self.folder / "results.csv") as tmp:
            tmp.write_text(table.getvalue(), encoding="utf-8")
        if self._writer is not None:
            for key, value in row.items():
                if key != "epoch" and math.isfinite(value):
                    self._writer.add_scalar(key, value, int(row["epoch"]))

    def close(self) -> None:
        """Draw the curves."""
        if self.rows:
            charts.training_chart(self.folder / "results.png", self.rows)
        if self._writer is not None:
            self._writer.close()


def read_rows(path: Union[str, Path], epochs: int) -> List[Row]:
    """The rows of the first `epochs` epochs of a results.csv; none if there is no such file."""
    path = Path(path)
    if not path.is_file():
        return []
    rows = parse_rows(read_text(path, "table"), str(path))
    return [row for row in rows if row["epoch"] <= epochs]


def parse_rows(text: str, path: str) -> List[Row]:
    """The rows of a results.csv: each has an epoch, 1, 2, ...; cells may be empty.

    Raises InputError that names file and line.
    """
    rows: List[Row] = []
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        for cells in reader:
            row = {str(k): float(v) for k, v in cells.items() if v}
            if None in cells or not float(row.get("epoch", 0)).is_integer() or "epoch" not in row:
                raise ValueError("expected %d cells, one of them an epoch" % len(cells))
            rows.append(row)
    except (ValueError, TypeError, csv.Error) as e:
        raise InputError(
            "%s, line %d: %s; restore the file, or move it away and go on without the rows so far"
            % (path, reader.line_num, e)
        ) from e
    return rows


def write_images(
    path: Path, images: "torch.Tensor", persons: Persons, *, names: Sequence[str], skel: Skeleton
) -> None:
    """The first images of a batch as the network gets them, persons drawn.

    Args:
        images: (B, 3, H, W) torch tensor, RGB 0..1.
    """
    count = min(DRAWN_IMAGES, len(images))
    pixels = (images[:count].float().cpu().numpy().transpose(0, 2, 3, 1) * 255).round()
    tiles = []
    for i, whole in enumerate(pixels.astype(np.uint8)):
        some = Persons(*(part[persons.image == i] for part in persons))
        scale = TILE / max(whole.shape[:2])
        hw = (round(whole.shape[0] * scale), round(whole.shape[1] * scale))
        tile = cv2.resize(whole[..., ::-1], hw[::-1], interpolation=cv2.INTER_AREA)
        boxes = some.boxes * scale
        boxes[:, 2:] -= boxes[:, :2]
        areas = boxes[:, 2:].prod(1) * AREA_OF_BOX
        keypoints = some.keypoints * np.array([scale, scale, 1])
        ground_truth = GroundTruth(
            boxes, some.classes, keypoints, areas, np.zeros(len(areas), bool)
        )
        draw_ground_truth(tile, ground_truth, names, skel=skel, line_width=1)
        tiles.append(cv2.copyMakeBorder(tile, 0, 4, 0, 4, cv2.BORDER_CONSTANT, value=(255,) * 3))
    columns = math.ceil(math.sqrt(count))
    tiles += [np.full_like(tiles[0], 255)] * (-count % columns)
    rows = [np.hstack(tiles[i : i + columns]) for i in range(0, len(tiles), columns)]
    with atomic_path(path) as tmp:
        tmp.write_bytes(cv2.imencode(".jpg", np.vstack(rows))[1].tobytes())
