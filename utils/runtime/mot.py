"""Tracks as text files in the format of MOTChallenge, one a video or stream."""

import contextlib
from pathlib import Path
from typing import Dict, TextIO

import numpy as np

from utils.files import atomic_path
from utils.pose.poses import Poses, xyxy_to_xywh


def mot_rows(number: int, poses: Poses, ids: np.ndarray) -> str:
    """Lines `frame,id,left,top,width,height,score,-1,-1,-1` (motchallenge.net/instructions).

    Args: number: of the frame, from 1. The format counts pixels from 1, too.
    """
    boxes = xyxy_to_xywh(poses.boxes.astype(np.float64)) + [1, 1, 0, 0]
    return "".join(
        "%d,%d,%.2f,%.2f,%.2f,%.2f,%.4f,-1,-1,-1\n" % (number, track, *box, score)
        for track, box, score in zip(ids.tolist(), boxes.tolist(), poses.scores.tolist())
    )


class MotFiles:
    """`<folder>/<name>.txt`, written as frames come; the files get their names at `close`."""

    def __init__(self, folder: Path):
        self._folder = folder
        self._open: Dict[str, TextIO] = {}
        self._stack = contextlib.ExitStack()

    def write(self, name: str, number: int, poses: Poses, *, ids: np.ndarray) -> None:
        """Append the persons of a frame."""
        if name not in self._open:
            tmp = self._stack.enter_context(atomic_path(self._folder / (name + ".txt")))
            self._open[name] = self._stack.enter_context(tmp.open("w", encoding="utf-8"))
        self._open[name].write(mot_rows(number, poses, ids))

    def close(self) -> None:
        """Finish all files."""
        self._stack.close()
        self._open.clear()
