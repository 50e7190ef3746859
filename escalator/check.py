"""Dataset doctor: what is in a dataset, and what is wrong with it.

    python escalator/check.py --data data/custom_kpts.yaml
    python escalator/check.py --data data/coco_kpts.yaml --task val --save_dir runs/check

Decodes every image, reads every label file of the yaml, prints a table and what it found, writes
report.json (everything, with file and line) and report.png (plots) into --save_dir.

Errors (exit code 1): images that are missing or unreadable, broken label lines, two images that
share a label file, images of one content in two of train, val and test, images without a label
file where they are needed (val and test, unless the yaml names a COCO JSON; or all of a task).
Warnings (exit code 0): images without a label file in train, label files without an image, images
of one content in one list, a person twice, keypoints outside the image (they count as not
labelled), boxes that reach outside it, boxes narrower than 8 px at --img-size, visible keypoints
far outside their box, persons whose left and right look swapped.
"""

import argparse
import json
import os
import sys
from collections import Counter, defaultdict
from pathlib import Path
from typing import Dict, List, NamedTuple, Optional, Sequence, Tuple

if not __package__:
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from escalator.tally import numbered
from utils import cli
from utils.dataset.data_yaml import TASKS, DataYaml, assumptions, read_data
from utils.dataset.images import IMAGE_SUFFIXES, check_decodable, read_image_hw
from utils.dataset.labels import TOLERANCE, label_path, labels_to_ground_truth, scan_labels
from utils.dataset.left_right import swap_reason
from utils.errors import InputError, check_limits, reason_of
from utils.files import atomic_path, check_output, content_hash
from utils.parallel import parallel_map
from utils.pose.ground_truth import GroundTruth, empty_ground_truth
from utils.pose.keypoints import Skeleton
from utils.pose.letterbox import HW, MAX_SIZE
from utils.reading import read_text

TINY = 8  # px of the network input: one cell of its finest level
SAME_PERSON = 0.95  # IoU of two boxes of one class
FAR = 0.25  # of the box size that a keypoint may lie outside its box
SHOWN = 5  # findings of a kind that are printed

# kinds of findings; as the table calls them
MISSING, UNREADABLE, BROKEN = "images missing", "images unreadable", "broken label lines"
SHARED, LEAK = "images that share a label file", "images in two of the lists (leakage)"
UNLABELLED_ERROR = "images without a label file that need one"
UNLABELLED, ORPHANS = "images without a label file", "label files without an image"
TWICE_IMAGE, TWICE_PERSON = "images twice in one list", "persons twice on an image"
OUTSIDE, TINY_BOX = "boxes that reach outside the image", "tiny boxes"
CUT = "lines with points or boxes outside the image"
FAR_POINT, SWAPPED = "persons with points far outside the box", "left/right swapped suspects"
ERRORS = (MISSING, UNREADABLE, BROKEN, SHARED, LEAK, UNLABELLED_ERROR)
WARNINGS = (
    UNLABELLED, ORPHANS, TWICE_IMAGE, TWICE_PERSON, CUT, OUTSIDE, TINY_BOX, FAR_POINT, SWAPPED,
)  # fmt: skip


def get_args_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "check.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--data", default="data/custom_kpts.yaml", help="data yaml [data/custom_kpts.yaml]")
    add("--task", nargs="+", choices=TASKS, help="what to look at [all that the yaml has]")
    add("--save_dir", "--save-dir", default="runs/check", help="folder of the report [runs/check]")
    add("--img-size", "--img_size", type=int, default=640,
        help="longer side of the network input, for tiny boxes, px [640]")  # fmt: skip
    add("--workers", type=int, default=0, help="processes [0: one a core]")
    cli.add_overwrite(parser)
    return parser


class Finding(NamedTuple):
    """Something that is wrong, or may be."""

    kind: str
    text: str  # with file and line


class Item(NamedTuple):
    """An image to look at."""

    image: str
    skeleton: Skeleton
    dims: int  # values of a keypoint in a label: 3 x y v, 2 x y
    nc: int
    img_size: int


class Seen(NamedTuple):
    """What was found on an image; hw and digest are None if not even its header can be read."""

    image: str
    ground_truth: GroundTruth
    hw: Optional[HW]
    digest: Optional[bytes]
    has_label: bool
    findings: List[Finding]

    def has(self, *kinds: str) -> bool:
        return any(finding.kind in kinds for finding in self.findings)


def look(item: Item) -> Seen:
    """Read an image: its header, content hash and pixels; and its labels."""
    findings: List[Finding] = []
    hw = digest = None
    try:
        hw = read_image_hw(item.image)
        digest = content_hash(item.image)
        check_decodable(item.image)
    except FileNotFoundError:
        findings.append(Finding(MISSING, item.image))
    except (ValueError, OSError) as e:
        reason = reason_of(e)
        findings.append(Finding(UNREADABLE, "%s: %s" % (item.image, reason)))
    label = label_path(item.image)
    has_label = os.path.lexists(str(label))
    ground_truth = empty_ground_truth(item.skeleton.count)
    try:
        text = read_text(label, "label file") if has_label else ""
        scan = scan_labels(text, item.skeleton.count, item.nc, dims=item.dims)
        labels, faults = scan.labels, scan.faults
        findings += [Finding(BROKEN, "%s, line %d: %s" % (label, *fault)) for fault in faults]
        findings += [Finding(CUT, "%s, line %d: %s" % (label, *change)) for change in scan.changes]
        # without a size the shares of the table still hold; what needs pixels is not looked at
        ground_truth = labels_to_ground_truth(labels, hw or (1, 1))
        if hw is not None:
            findings += suspicious(
                ground_truth,
                hw,
                item.img_size,
                label=str(label),
                numbers=good_lines(text, faults),
                skel=item.skeleton,
            )
    except InputError as e:
        findings.append(Finding(BROKEN, str(e)))
    return Seen(item.image, ground_truth, hw, digest, has_label, findings)


def good_lines(text: str, faults: Sequence[Tuple[int, str]]) -> List[int]:
    """Line number of each person, as scan_labels returns them."""
    broken = {number for number, _ in faults}
    lines = enumerate(text.splitlines(), 1)
    return [n for n, line in lines if line.strip() and n not in broken]


def suspicious(
    ground_truth: GroundTruth,
    hw: HW,
    img_size: int,
    *,
    label: str,
    numbers: Sequence[int],
    skel: Skeleton,
) -> List[Finding]:
    """What a label may say, but seldom rightly.

    Args: numbers: line of each person. skel: what the keypoints are.
    """
    found: List[Finding] = []

    def add(kind: str, i: int, more: str = "") -> None:
        found.append(Finding(kind, "%s, line %d%s" % (label, numbers[i], more)))

    size = np.array([hw[1], hw[0]], np.float64)
    low, high = ground_truth.boxes[:, :2], ground_truth.boxes[:, :2] + ground_truth.boxes[:, 2:]
    slack = TOLERANCE * size
    for i in np.flatnonzero(((low < -slack) | (high > size + slack)).any(1)).tolist():
        beyond = max((-low[i] / size).max(), ((high[i] - size) / size).max())
        add(OUTSIDE, i, ": by %.1f %% of the image" % (100 * beyond))
    sides = (
        ground_truth.boxes[:, 2:].min(1) * img_size / max(hw) if ground_truth.count else np.zeros(0)
    )
    for i in np.flatnonzero(sides < TINY).tolist():
        add(TINY_BOX, i, ": %.1f px narrow at %d" % (sides[i], img_size))
    margin = FAR * ground_truth.boxes[:, None, 2:]
    xy = ground_truth.keypoints[..., :2]
    out = ((xy < low[:, None] - margin) | (xy > high[:, None] + margin)).any(2)
    out &= ground_truth.keypoints[..., 2] == 2  # COCO's boxes leave out what is hidden
    for i in np.flatnonzero(out.any(1)).tolist():
        add(FAR_POINT, i, ": " + ", ".join(skel.names[k] for k in np.flatnonzero(out[i])))
    for i in range(ground_truth.count if skel.is_coco else 0):
        reason = swap_reason(ground_truth.keypoints[i], ground_truth.boxes[i, 2:][::-1])
        if reason:
            add(SWAPPED, i, ": " + reason)
    for i, j in same_persons(ground_truth):
        add(TWICE_PERSON, j, ": the person of line %d" % numbers[i])
    return found


def same_persons(ground_truth: GroundTruth) -> List[Tuple[int, int]]:
    """Pairs i < j of one class whose boxes cover each other; each j once."""
    if ground_truth.count < 2:
        return []
    low, high = ground_truth.boxes[:, :2], ground_truth.boxes[:, :2] + ground_truth.boxes[:, 2:]
    sides = np.minimum(high[:, None], high) - np.maximum(low[:, None], low)
    common = sides.clip(0).prod(2)
    area = ground_truth.boxes[:, 2:].prod(1)
    same = common > SAME_PERSON * (area[:, None] + area - common)
    same &= ground_truth.classes[:, None] == ground_truth.classes
    firsts = (np.flatnonzero(same[:j, j]) for j in range(ground_truth.count))
    return [(int(first[0]), j) for j, first in enumerate(firsts) if len(first)]


class TaskReport(NamedTuple):
    """One of train, val, test."""

    seen: List[Seen]
    findings: Dict[str, List[str]]  # kind -> messages


def check(
    data: DataYaml, tasks: Sequence[str], img_size: int = 640, *, workers: int = 0
) -> Dict[str, TaskReport]:
    """Look at all images of the tasks. Raises InputError for lists that cannot be read."""
    lists = {task: data.images(task) for task in tasks}
    reports = {}
    for task, images in lists.items():
        skel, dims = data.skeleton, data.declared.dims
        items = [Item(path, skel, dims, data.nc, img_size) for path in images]
        seen = list(parallel_map(look, items, task, workers=workers))
        findings: Dict[str, List[str]] = defaultdict(list)
        for one in seen:
            for finding in one.findings:
                findings[finding.kind].append(finding.text)
        there = [s for s in seen if not s.has(MISSING)]
        bare = ["%s (no %s)" % (s.image, label_path(s.image)) for s in there if not s.has_label]
        needed = task != "train" and task not in data.jsons
        if bare:
            findings[UNLABELLED_ERROR if needed or len(bare) == len(there) else UNLABELLED] = bare
        for first, other in repeated((str(label_path(p)), p) for p in images):
            findings[SHARED].append("%s: of %s, too" % (other, first))
        for first, other in repeated((s.digest, s.image) for s in seen if s.digest):
            findings[TWICE_IMAGE].append("%s: as %s" % (other, first))
        findings[ORPHANS] += orphans(images)
        reports[task] = TaskReport(seen, findings)
    _find_leaks(reports)
    return reports


def repeated(pairs) -> List[Tuple[str, str]]:
    """(first name, other name) of each name whose key was there before."""
    first: Dict = {}
    return [(first[key], name) for key, name in pairs if first.setdefault(key, name) is not name]


def _find_leaks(reports: Dict[str, TaskReport]) -> None:
    """Images of one content in two lists; told at the later one."""
    owner: Dict[bytes, Tuple[str, str]] = {}
    for task, report in reports.items():
        for seen in report.seen:
            if seen.digest is None:
                continue
            other_task, other = owner.setdefault(seen.digest, (task, seen.image))
            if other_task != task:
                report.findings[LEAK].append(
                    "%s: as %s of %s" % (seen.image, other, other_task)
                )  # fmt: skip


def orphans(images: Sequence[str]) -> List[str]:
    """Label files of the folders in use that belong to no image that is there or listed."""
    folders, listed = {}, defaultdict(set)
    for image in images:
        folder = label_path(image).parent
        listed[folder].add(Path(image).stem)
        if folder != Path(image).parent:  # beside images a .txt may be anything
            folders[folder] = Path(image).parent
    found = []
    for label_folder, image_folder in sorted(folders.items()):
        if not label_folder.is_dir() or not image_folder.is_dir():
            continue
        stems = {os.path.splitext(n)[0] for n in os.listdir(str(image_folder))
                 if os.path.splitext(n)[1].lower() in IMAGE_SUFFIXES}  # fmt: skip
        stems |= listed[label_folder]
        names = (os.path.splitext(n) for n in sorted(os.listdir(str(label_folder))) if n[0] != ".")
        found += [str(label_folder / (stem + suffix)) for stem, suffix in names
                  if suffix == ".txt" and stem not in stems]  # fmt: skip
    return found


def summary(report: TaskReport, skel: Skeleton) -> Dict:
    """Counts of one task, for the table and report.json."""
    counts = np.array([s.ground_truth.count for s in report.seen])
    points = np.concatenate(
        [np.zeros((0, skel.count))] + [s.ground_truth.keypoints[..., 2] for s in report.seen]
    )
    return {
        "images": len(report.seen),
        "images without persons": sum(
            not s.ground_truth.count and not s.has(MISSING, BROKEN) for s in report.seen
        ),
        "persons": int(counts.sum()),
        "persons without a keypoint": int((points == 0).all(1).sum()),
        "most persons on an image": int(counts.max()) if len(counts) else 0,
        "keypoints": {
            name: {
                "visible": int((points[:, k] == 2).sum()),
                "hidden": int((points[:, k] == 1).sum()),
            }
            for k, name in enumerate(skel.names)
        },
        "findings": {kind: report.findings.get(kind, []) for kind in ERRORS + WARNINGS},
    }


def print_table(summaries: Dict[str, Dict]) -> None:
    """Counts by task, keypoints by joint, then the findings."""
    tasks = list(summaries)
    row = "%-46s" + "%14s" * len(tasks)
    print(row % ("", *tasks))
    for key in next(iter(summaries.values())):
        if key not in ("keypoints", "findings"):
            print(row % (key, *(summaries[t][key] for t in tasks)))
    print(row % ("keypoint: visible + hidden, % of persons", *[""] * len(tasks)))
    for name in summaries[tasks[0]]["keypoints"]:
        cells = []
        for task in tasks:
            point, persons = summaries[task]["keypoints"][name], summaries[task]["persons"] or 1
            shares = 100 * point["visible"] / persons, 100 * point["hidden"] / persons
            cells.append("%.0f + %.0f" % shares)
        print(row % ("  " + name, *cells))
    for title, kinds in (("found errors", ERRORS), ("found warnings", WARNINGS)):
        print(row % (title, *[""] * len(tasks)))
        for kind in kinds:
            counts = [len(summaries[t]["findings"][kind]) for t in tasks]
            if any(counts):
                print(row % ("  " + kind, *counts))
        if not any(len(summaries[t]["findings"][k]) for t in tasks for k in kinds):
            print("  none")


def print_findings(summaries: Dict[str, Dict]) -> None:
    """The first few of each kind, errors first."""
    for kind in ERRORS + WARNINGS:
        texts = [text for s in summaries.values() for text in s["findings"][kind]]
        word = "error" if kind in ERRORS else "warning"
        for text in texts[:SHOWN]:
            print("%s: %s: %s" % (word, kind, text))
        if len(texts) > SHOWN:
            print("%s: %s: and %d more in report.json" % (word, kind, len(texts) - SHOWN))


def present(data: DataYaml) -> List[str]:
    """The tasks of a data yaml; says so where it names a test that was not exported."""
    tasks = list(data.splits)
    if len(tasks) > 1 and "test" in tasks and not any(map(os.path.exists, data.splits["test"])):
        print("note: %s: no %s, so test is not checked" % (data.path, data.splits["test"][0]))
        tasks.remove("test")
    return tasks


def main(args: argparse.Namespace) -> None:
    check_limits(args, {"img_size": (1, MAX_SIZE), "workers": (0, 256)})
    data = read_data(args.data)
    tasks = [t for t in TASKS if t in (args.task or present(data))]
    if not tasks:
        raise InputError("%s: none of the keys %s" % (args.data, ", ".join(TASKS)))
    for line in assumptions(data):
        print("note: " + line)
    from escalator.check_plots import plot

    for name in ("report.json", "report.png"):
        check_output(Path(args.save_dir) / name)
    reports = check(data, tasks, args.img_size, workers=args.workers)
    summaries = {task: summary(report, data.skeleton) for task, report in reports.items()}
    print_table(summaries)
    print_findings(summaries)
    folder = Path(args.save_dir)
    with atomic_path(folder / "report.json") as tmp:
        tmp.write_text(
            json.dumps({"data": args.data, **summaries}, indent=1, ensure_ascii=False),
            encoding="utf-8",
            errors="backslashreplace",
        )
    with atomic_path(folder / "report.png") as tmp:
        plot(tmp, reports, data.skeleton)
    print("report.json and report.png in %s" % folder)
    totals = Counter(
        {kind: sum(len(s["findings"][kind]) for s in summaries.values()) for kind in ERRORS}
    )
    if sum(totals.values()):
        raise InputError(
            "%s: %s" % (args.data, ", ".join(numbered(n, k) for k, n in totals.items() if n))
        )


if __name__ == "__main__":
    cli.run(main, get_args_parser())
