"""The table of accuracy that test prints."""

from typing import List

from utils.evaluation.evaluate import Accuracy, ClassRow

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
