"""kill -9 at random moments: old outputs stay whole, no part of a file gets a final name.

    python tests/campaign_kill.py --kills 50

Each round: a script has run to its end, is started again with other results to come, and is killed.
Then every file under a final name must be one of the two whole versions, and the next run must end
well and leave no temporary file. Not part of the tests.
"""

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Dict, List, Tuple

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from tests.campaign import contents
from tests.campaign_cases import make_template

ONNX = ("models/export_onnx.py", "--weights", "{}/tiny.pt", "--img-size")
DETECT = ("detect_multi_backend.py", "--weights", "{}/pose.onnx", "--source", "{}/data/images",
          "--project", "{}/out", "--exist-ok", "--save-txt", "--device", "cpu")  # fmt: skip
IMAGES = ("--image_dir", "{}/data/images", "--label_dir", "{}/data/labels")
COMMANDS: Dict[str, Tuple[Tuple, Tuple]] = {  # name -> (a command, one with other results)
    "json2yolo": (
        ("escalator/json2yolo.py", "--json_dir", "{}/data/annotations", *IMAGES),
        ("escalator/json2yolo.py", "--json_dir", "{}/other", *IMAGES),
    ),
    "export": ((*ONNX, 64), (*ONNX, 128)),
    "detect": (DETECT, (*DETECT, "--line-thickness", 7, "--conf-thres", 0.95)),
    "int8": (
        ("models/export_INT8.py", "--onnx", "{}/small.onnx", "--calib_path", "{}/data/images",
         "--calib_num", 2, "--cache_dir", "{}/caches", "--recalibrate"),
        ("models/export_INT8.py", "--onnx", "{}/small.onnx", "--calib_path", "{}/data/images",
         "--calib_num", 3, "--cache_dir", "{}/caches", "--recalibrate"),
    ),
}  # fmt: skip
CHANGING = ("summary.json",)  # has timings in it


def start(command: Tuple, folder: Path) -> subprocess.Popen:
    words = [str(w).replace("{}", str(folder)) for w in command]
    return subprocess.Popen([sys.executable, str(ROOT / words[0]), *words[1:]], cwd=str(ROOT),
                            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)  # fmt: skip


def finish(command: Tuple, folder: Path) -> float:
    started = time.monotonic()
    process = start(command, folder)
    _, stderr = process.communicate()
    if process.returncode:
        raise RuntimeError("%s: %s" % (command[0], stderr.decode()[-300:]))
    return time.monotonic() - started


def one_round(name: str, template: Path, work: Path) -> List[str]:
    """What is wrong after one kill."""
    folder = work / "kill"
    shutil.rmtree(str(folder), ignore_errors=True)
    shutil.copytree(str(template), str(folder))
    shutil.copytree(str(folder / "data" / "annotations"), str(folder / "other"))
    for path in (folder / "other").glob("*.json"):
        path.write_text(json.dumps(json.loads(path.read_text())[:1]))
    shutil.rmtree(str(folder / "data" / "labels"))  # made by the library: not the scripts'
    one, other = COMMANDS[name]
    finish(one, folder)
    first = contents(folder)
    spent = finish(other, folder)
    second = contents(folder)
    finish(one, folder)
    process = start(other, folder)
    time.sleep(random.uniform(0.2, 1.0) * spent)
    process.kill()
    process.wait()
    faults = []
    for path, digest in contents(folder).items():
        base = os.path.basename(path)
        if not base.startswith(".tmp") and base not in CHANGING and digest not in (
            first.get(path), second.get(path)
        ):  # fmt: skip
            faults.append("%s is neither the old nor the new one" % path)
    faults += ["%s is gone" % p for p in first if p not in contents(folder)]
    finish(other, folder)
    faults += ["%s is left" % p for p in contents(folder) if os.path.basename(p)[:4] == ".tmp"]
    return faults


def main() -> None:
    parser = argparse.ArgumentParser("campaign_kill.py")
    parser.add_argument("--kills", type=int, default=50)
    args = parser.parse_args()
    random.seed(0)
    work = Path(tempfile.mkdtemp(prefix="kill-"))
    make_template(work / "template")
    bad = 0
    for number in range(args.kills):
        name = list(COMMANDS)[number % len(COMMANDS)]
        faults = one_round(name, work / "template", work)
        bad += bool(faults)
        print("%d %s: %s" % (number + 1, name, faults or "clean"), flush=True)
    print("%d of %d kills not clean" % (bad, args.kills))
    shutil.rmtree(str(work))


if __name__ == "__main__":
    main()
