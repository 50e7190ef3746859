"""Tables as Markdown and CSV."""

import csv
from pathlib import Path
from typing import Sequence

from utils.files import atomic_path


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "".join("| %s |\n" % " | ".join(line) for line in lines)


def write_csv(path: Path, header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Write a CSV file whole."""
    errors = "backslashreplace"  # a file name need not be UTF-8
    with atomic_path(path) as tmp, open(
        str(tmp), "w", newline="", encoding="utf-8", errors=errors
    ) as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)
