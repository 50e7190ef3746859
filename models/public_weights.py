"""Where the public YOLO-Pose checkpoints are, and whether a file that was fetched is whole.

    python models/public_weights.py
    python models/public_weights.py fetched/yolov5s6_pose.pt --sha256 0123...
    python models/public_weights.py weights/yolov5s6_pose.pt

Downloads nothing. Without a file it prints the addresses. With one it prints the SHA-256, compares
it with --sha256 or, for a file in weights/ of this repository, with what came with it, and reads
the file as every script here would: a web page or half a download is an error, exit code 1.
"""

import argparse
import hashlib
import sys
from pathlib import Path
from typing import Dict, NamedTuple

if not __package__:
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from utils import cli
from utils.errors import InputError
from utils.reading import check_file

PAGE = "https://github.com/TexasInstruments/edgeai-yolov5/tree/yolo-pose"


class Published(NamedTuple):
    """A checkpoint of the authors of YOLO-Pose, and what they state of it on COCO val2017."""

    model: str
    size_px: int
    ap: float  # keypoint AP, percent
    ap50: float


PUBLISHED = (
    Published("YOLOv5s6-pose-ti-lite", 640, 54.9, 82.2),
    Published("YOLOv5s6-pose", 640, 57.5, 84.3),
    Published("YOLOv5s6-pose", 960, 63.7, 87.6),
    Published("YOLOv5m6-pose", 960, 67.4, 89.1),
    Published("YOLOv5l6-pose", 960, 69.4, 90.2),
)
OURS = Path(__file__).resolve().parents[1] / "weights"
# The authors state no hashes of theirs.
KNOWN: Dict[str, str] = {  # what comes with this repository
    "yolov5n6_pose.pt": "f90d094db8f143a9cd287ffb758e222f84f50fa18e0429fce5ebb3d9aea80f40",
    "yolov5s6_pose.pt": "01ee25830d4e6d20ff02cf8d110b0a7dcdce24df7a895ff892db01a0d53b0a3e",
}


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, 64 hexadecimal digits. Raises InputError where it can't be read."""
    digest = hashlib.sha256()
    check_file(path, "checkpoint")
    try:
        with path.open("rb") as file:
            for block in iter(lambda: file.read(1 << 20), b""):
                digest.update(block)
    except OSError as e:
        raise InputError("%s: can't be read: %s" % (path, e.strerror)) from e
    return digest.hexdigest()


def verify(path: Path, wanted: str) -> None:
    """Print what a file is. wanted: its hash, or "" for the known one of a file that came with this
    repository, if it is one.

    Raises InputError if the hash is another, or the file no checkpoint.
    """
    found = sha256_of(path)
    print("%s: sha256 %s" % (path, found))
    wanted, source, then = wanted.strip().lower(), "`sha256`", "fetch it again"
    if not wanted and path.resolve().parent == OURS:
        wanted = KNOWN.get(path.name, "")
        source = "the hash of the %s of this repository" % path.name
        then = "restore it, or keep another file of that name elsewhere"
    if wanted and found != wanted:
        raise InputError("%s: not the expected file: %s is %s; %s" % (path, source, wanted, then))
    try:
        from models.checkpoint import load_checkpoint
    except ImportError as e:
        raise InputError("a .pt needs PyTorch to be read; pip install torch (%s)" % e) from e

    model = load_checkpoint(path, "").model
    print(
        "%s: %.1f M parameters, %d keypoints, classes %s"
        % (path, model.parameter_count() / 1e6, model.nkpt, ", ".join(model.names))
    )
    ours = [name for name, known in KNOWN.items() if known == found]
    if wanted:
        print("it is the expected file")
    elif ours:
        print("it is the %s of this repository" % ours[0])
    else:
        print("no hash to compare with: give the one of your source as --sha256")


def get_args_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "public_weights.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("file", nargs="?", metavar="FILE", help="a .pt that was fetched")
    parser.add_argument("--sha256", default="", metavar="HASH", help="what its hash has to be")
    return parser


def main(args: argparse.Namespace) -> None:
    if args.file:
        verify(Path(args.file), args.sha256)
        return
    if args.sha256:
        raise InputError("`sha256`: of which file? public_weights.py FILE --sha256 HASH")
    print("The authors of YOLO-Pose link their checkpoints in the table of this page:\n%s" % PAGE)
    print("Licence: GPL-3.0, theirs. COCO val2017, as they state it:")
    for row in PUBLISHED:
        print("  %-22s %d px  keypoint AP %.1f  AP50 %.1f" % row)
    print("Fetch one with a browser, then: python models/public_weights.py FILE")


if __name__ == "__main__":
    cli.run(main, get_args_parser())
