"""What a conversion did: counts, what was changed on the way, what failed."""

import re
import sys
from collections import Counter
from typing import List, Mapping

from utils.errors import InputError
from utils.words import counted

PLURAL = re.compile(r"\b(?:boxes|(crowd|file|image|person|point|shape)s)\b")
SHOWN = 100  # messages about what failed; more of them say nothing new


class Tally:
    """Counts up; `finish` prints, and is the error if anything failed."""

    def __init__(self) -> None:
        self.images = 0
        self.persons = 0
        self.empty = 0  # images without persons
        self.faults: List[str] = []
        self.notes: Counter = Counter()

    def add(self, persons: int, notes: Mapping[str, int]) -> None:
        """An image that was converted."""
        self.images += 1
        self.persons += persons
        self.empty += not persons
        self.notes.update(notes)

    def finish(self, result: str) -> None:
        """Print what was done. Raises InputError if anything failed.

        Args: result: what the images became, such as `label files in labels`.
        """
        print(
            "%s: %s, %s without persons"
            % (
                _counted(self.images, result),
                counted(self.persons, "person"),
                counted(self.empty, "image"),
            )
        )
        for note, count in self.notes.items():
            if count:
                print("  " + _counted(count, note))
        sys.stdout.flush()
        for fault in self.faults[:SHOWN]:
            print("failed: " + fault, file=sys.stderr)
        if len(self.faults) > SHOWN:
            print("failed: and %d more" % (len(self.faults) - SHOWN), file=sys.stderr)
        if self.faults:
            many = len(self.faults)
            what = "1 file or person" if many == 1 else "%d files or persons" % many
            was = "was" if self.images == 1 else "were"
            done = "%s %s" % (counted(self.images, "image"), was) if self.images else "no image was"
            raise InputError("%s could not be converted (see above); %s converted" % (what, done))


def _counted(number: int, things: str) -> str:
    """`2 label files in labels`, `1 label file in labels`."""
    if number == 1:
        things = PLURAL.sub(lambda m: m.group(1) or "box", things, count=1)  # not in paths
    return "%d %s" % (number, things)
