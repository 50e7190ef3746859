"""Figures as text: the table test prints, Markdown and CSV files."""

import csv
from pathlib import Path
from typing import List, Sequence

from utils.evaluation.evaluate import Accuracy, ClassRow
from utils.files import atomic_path

COLUMNS = ("Class", "Images", "Labels", "P", "R", "mAP@.5", "mAP@.5:.95")


def accuracy_lines(accuracy: Accuracy, verbose: bool = False) -> List[str]:
    """The table of det and kpt rows; with `verbose` also of each class, if there are several."""
    lines = ["%20s%11s%11s%11s%11s%11s%11s" % COLUMNS]
    for kind, rows in (("det", accuracy.box_rows), ("kpt", accuracy.pose_rows)):
        shown = rows if verbose and len(rows) > 2 else rows[:1]
        lines += [_line(row, kind) for row in shown]
    return lines


def _line(row: ClassRow, kind: str) -> str:
    name = "%s(%s)" % (row.name, kind)
    values = (row.precision, row.recall, row.ap50, row.ap)
    return "%20s%11d%11d" % (name, row.images, row.labels) + "".join("%11.3g" % v for v in values)


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "".join("| %s |\n" % " | ".join(line) for line in lines)


def write_csv(path: Path, header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Write a CSV file whole."""
    kind = {"encoding": "utf-8", "errors": "backslashreplace"}  # a file name need not be UTF-8
    with atomic_path(path) as tmp, open(str(tmp), "w", newline="", **kind) as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)
