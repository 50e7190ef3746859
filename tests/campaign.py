"""Hostile inputs and faults on every script; what a clean end is, and what was not clean.

    python tests/campaign.py                             # all, about half an hour on two cores
    python tests/campaign.py --only onnx,flags --out runs/campaign

Not part of the tests. A case is a folder with a small dataset and models, one thing of which is
hostile, and a command. Each runs in a forked process, so that PyTorch is imported once. Clean is:
an exit code that is expected (never 70 and no signal), one line of error, no control characters, no
temporary files, no change of what was there, and limits of time and memory. The folder --out gets
report.md and cases.csv.
"""

import argparse
import collections
import csv
import hashlib
import os
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Callable, Dict, List, NamedTuple, Sequence, Tuple

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))
os.environ.setdefault("OMP_NUM_THREADS", "1")  # threads do not survive a fork

from utils import cli  # noqa: E402,F401  # before OpenCV

CPU_S, WALL_S = 60.0, 240.0
REFUSED, DONE, EITHER = (1,), (0,), (0, 1)


class Case(NamedTuple):
    """A command, and what is expected of it."""

    kind: str  # the chapter of the report
    name: str
    script: str  # module
    flags: Sequence[Any]  # `{}` becomes the folder of the case
    spoil: Callable[[Path], None]  # makes the folder hostile
    expected: Tuple[int, ...] = EITHER  # exit codes


class Outcome(NamedTuple):
    """How a case ended."""

    case: Case
    code: int  # negative: the signal
    cpu_s: float
    wall_s: float
    extra_mb: float  # peak memory beyond that of the parent
    left: List[str]  # new files
    error: str  # the last line of stderr
    faults: List[str]  # why it is not clean


def run_case(case: Case, template: Path, work: Path) -> Outcome:
    """Run a case in a copy of the template."""
    folder = work / "case"
    shutil.rmtree(str(folder), ignore_errors=True)
    shutil.copytree(str(template), str(folder))
    case.spoil(folder)
    before = contents(folder)
    flags = [str(f).replace("{}", str(folder)) for f in case.flags]
    started = time.monotonic()
    child = os.fork()
    if child == 0:
        run_child(case.script, flags, work)
    code, usage = wait(child, started + WALL_S)
    wall = time.monotonic() - started
    stdout = (work / "stdout").read_text(errors="replace")
    stderr = (work / "stderr").read_text(errors="replace")
    after = contents(folder)
    extra = usage.ru_maxrss / 1024 - resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    cpu = usage.ru_utime + usage.ru_stime
    left = sorted(set(after) - set(before))
    lines = [line.split("\r")[-1] for line in stderr.splitlines()]
    errors = [line for line in lines if line.startswith("error: ")]
    faults = []
    if code not in case.expected:
        faults.append("exit code %d, expected %s" % (code, case.expected))
    if code == 1 and len(errors) != 1:
        faults.append("%d lines of error" % len(errors))
    odd = [line for line in lines if line.strip() and not line.startswith(KNOWN)]
    odd = [line for line in odd if not re.search(r"\d+%\||\?it/s|(frame|image|step|file)/s", line)]
    if odd:
        faults.append("noise: %r" % odd[0][:100])
    if any(ord(c) < 32 and c not in "\n\t\r" or c == "\x7f" for c in stdout + stderr):
        faults.append("a control character on the terminal")
    if "Traceback" in stdout + stderr:
        faults.append("a traceback")
    own = ("run/",) if "--resume" in flags and code == 0 else ()  # a run that went on
    changed = [n for n, d in before.items() if after.get(n) != d and not n.startswith(own or "\0")]
    if changed:
        faults.append("changed: %s" % changed[0])
    if [name for name in left if "/.tmp" in "/" + name]:
        faults.append("left: %s" % left)
    if cpu > CPU_S or wall > WALL_S:
        faults.append("%.0f s of CPU, %.0f s" % (cpu, wall))
    if code == 1 and extra > 1000:
        faults.append("%.0f MB" % extra)
    error = errors[-1] if errors else ""
    return Outcome(case, code, cpu, wall, max(extra, 0), left, error, faults)


KNOWN = ("error: ", "failed: ", "warning: ", "interrupted")


def run_child(script: str, flags: List[str], work: Path) -> None:
    """The forked process: never returns."""
    code = 99
    try:
        os.setsid()
        for number, name in ((1, "stdout"), (2, "stderr")):
            target = os.open(str(work / name), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(target, number)
        sys.stdout = os.fdopen(os.dup(1), "w")
        sys.stderr = os.fdopen(os.dup(2), "w")
        import importlib

        module = importlib.import_module(script)
        sys.argv = [script, *flags]
        try:
            cli.run(module.main, module.get_args_parser(), flags)
            code = 0
        except SystemExit as e:
            code = e.code if isinstance(e.code, int) else 0 if e.code is None else 1
        sys.stdout.flush()
        sys.stderr.flush()
    except BaseException:
        import traceback

        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(code)


def wait(child: int, deadline: float) -> Tuple[int, Any]:
    """(exit code or minus the signal, resource usage); what does not end is killed."""
    while True:
        done, status, usage = os.wait4(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status), usage
        if time.monotonic() > deadline:
            os.killpg(child, signal.SIGKILL)
            _, status, usage = os.wait4(child, 0)
            return -signal.SIGKILL, usage
        time.sleep(0.02)


def contents(folder: Path) -> Dict[str, str]:
    """Name -> digest of each regular file."""
    found = {}
    for parent, _, names in os.walk(str(folder)):
        for name in names:
            path = os.path.join(parent, name)
            if os.path.isfile(path):
                size = os.path.getsize(path)
                with open(path, "rb") as file:
                    digest = hashlib.sha256(file.read(1 << 24)).hexdigest() + str(size)
                found[os.path.relpath(path, str(folder))] = digest
    return found


def report(outcomes: List[Outcome], folder: Path) -> None:
    """report.md and cases.csv."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(str(folder / "cases.csv"), "w", newline="", encoding="utf-8",
              errors="backslashreplace") as file:  # fmt: skip
        table = csv.writer(file)
        table.writerow(["kind", "case", "script", "expected", "code", "cpu s", "s", "extra MB",
                        "files left", "error", "not clean"])  # fmt: skip
        for o in outcomes:
            c = o.case
            table.writerow([c.kind, c.name, c.script, " ".join(map(str, c.expected)), o.code,
                            "%.2f" % o.cpu_s, "%.2f" % o.wall_s, "%.0f" % o.extra_mb,
                            len(o.left), o.error[:300], "; ".join(o.faults)])  # fmt: skip
    kinds = collections.OrderedDict((o.case.kind, []) for o in outcomes)
    for o in outcomes:
        kinds[o.case.kind].append(o)
    lines = ["| kind | cases | refused | done | not clean | most CPU s | most extra MB |",
             "|---|---|---|---|---|---|---|"]  # fmt: skip
    for kind, some in [*kinds.items(), ("all", outcomes)]:
        lines.append("| %s | %d | %d | %d | %d | %.1f | %.0f |" % (
            kind, len(some), sum(o.code == 1 for o in some), sum(o.code == 0 for o in some),
            sum(bool(o.faults) for o in some), max(o.cpu_s for o in some),
            max(o.extra_mb for o in some)))  # fmt: skip
    (folder / "report.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))
    for o in outcomes:
        if o.faults:
            what = (o.case.kind, o.case.name, o.case.script, "; ".join(o.faults), o.error[:200])
            print("NOT CLEAN %s, %s, %s: %s | %s" % tuple(map(ascii, what)))


def main() -> None:
    from tests import campaign_cases

    parser = argparse.ArgumentParser("campaign.py", description=__doc__.split("\n")[0])
    parser.add_argument("--only", default="", help="kinds, separated by commas [all]")
    parser.add_argument("--out", default="runs/campaign", help="folder of the report")
    args = parser.parse_args()
    work = Path(tempfile.mkdtemp(prefix="campaign-"))
    os.environ["TMPDIR"] = str(work)  # traceback files of code 70 stay here
    tempfile.tempdir = str(work)
    campaign_cases.make_template(work / "template")
    campaign_cases.preload()
    cases = campaign_cases.all_cases()
    wanted = set(filter(None, args.only.split(",")))
    cases = [c for c in cases if not wanted or c.kind in wanted]
    outcomes = []
    for number, case in enumerate(cases, 1):
        outcome = run_case(case, work / "template", work)
        outcomes.append(outcome)
        if outcome.faults or number % 50 == 0:
            print("%d/%d %s: %s: %s" % (number, len(cases), case.kind, ascii(case.name)[:60],
                                        ascii(outcome.faults)), flush=True)  # fmt: skip
    report(outcomes, Path(args.out))
    print("workspace, with details of code 70: %s" % work)


if __name__ == "__main__":
    main()
