"""What a conversion did: counts, what was changed on the way, what failed."""

import re
import sys
from argparse import ArgumentParser
from collections import Counter
from typing import Dict, List, Mapping, Optional, Sequence, Tuple

from utils import cli
from utils.dataset.annotations import Fault
from utils.errors import InputError
from utils.pose.ground_truth import GroundTruth
from utils.words import counted

PLURAL = re.compile(r"\b(?:boxes|(crowd|file|image|line|person|point|shape)s)\b")
VERBS = re.compile(r"(?<=\bthat )(need|share)\b")
SHOWN = 100  # messages about what failed; more of them say nothing new


class Tally:
    """Counts up; `finish` prints, and is the error if anything failed."""

    def __init__(self) -> None:
        self.images = 0
        self.persons = 0
        self.empty = 0  # images without persons
        self.faults: List[Fault] = []
        self.notes: Counter = Counter()

    def add(self, persons: int, notes: Mapping[str, int]) -> None:
        """An image that was converted."""
        self.images += 1
        self.persons += persons
        self.empty += not persons
        self.notes.update(notes)

    def finish(self, result: str, parser: Optional[ArgumentParser] = None) -> None:
        """Print what was done. Raises InputError if anything failed.

        Args: result: what the images became, such as `label files in labels`. parser: of the
        script, whose flags are named where a parameter is meant.
        """
        print(
            "%s: %s, %s without persons"
            % (
                numbered(self.images, result),
                counted(self.persons, "person"),
                counted(self.empty, "image"),
            )
        )
        for note, count in self.notes.items():
            if count:
                print("  " + numbered(count, note))
        sys.stdout.flush()
        faults, points = by_name(self.faults)
        for line in faults[:SHOWN]:
            print("failed: " + cli.with_flags(line, parser), file=sys.stderr)
        if len(faults) > SHOWN:
            print("failed: and %d more" % (len(faults) - SHOWN), file=sys.stderr)
        if faults:
            many = len(self.faults) - points
            what = "1 file or person" if many == 1 else "%d files or persons" % many
            if points:
                what = (what + " and " if many else "") + counted(points, "point")
            was = "was" if self.images == 1 else "were"
            done = "%s %s" % (counted(self.images, "image"), was) if self.images else "no image was"
            raise InputError("%s could not be converted (see above); %s converted" % (what, done))


def usable(ground_truth: GroundTruth, faults: Sequence[Fault]) -> bool:
    """Whether what was read of an image may be written. Where no person of it could be read, an
    entry without persons would tell training and test that nobody is there."""
    return ground_truth.count > 0 or not faults


def by_name(faults: Sequence[Fault]) -> Tuple[List[str], int]:
    """(lines, number of points) of faults: points that are no keypoints are one line a name."""
    lines = [str(fault) for fault in faults if fault.point is None]
    counts: Counter = Counter()
    first: Dict[str, Fault] = {}
    for fault in faults:
        if fault.point is not None:
            counts[fault.point] += 1
            first.setdefault(fault.point, fault)
    points = [
        "%s: %s left out, first in %s; correct the name there, or add it to kpt_names of the data "
        "yaml" % (first[name].reason, counted(count, "point"), first[name].path)
        for name, count in counts.items()
    ]
    return points + lines, sum(counts.values())


def numbered(number: int, things: str) -> str:
    """`2 label files in labels`, `1 label file in labels`, `1 image that needs one`."""
    if number == 1:
        things = VERBS.sub(r"\1s", things)
        things = PLURAL.sub(lambda m: m.group(1) or "box", things, count=1)  # not in paths
    return "%d %s" % (number, things)
