"""kill -9 at random moments: old outputs stay whole, no part of a file gets a final name.

    python tests/campaign_kill.py --kills 50
    python tests/campaign_kill.py --kills 50 --signal twice       # two SIGINT

Each round: a script has run to its end, is started again with other results to come, and is killed.
Then every file under a final name must be one of the two whole versions, and the next run must end
well and leave no temporary file. Of train: a run is resumed and killed; its checkpoints must be
readable, and resumed once more it must end with the weights of a run that was never killed. Not
part of the tests. With another signal each process must say `interrupted`, and nothing else, within
5 seconds, and leave no temporary file.
"""

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Callable, Dict, List, Tuple

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from tests.campaign import contents
from tests.campaign_cases import make_template

ONNX = ("models/export_onnx.py", "--weights", "{}/tiny.pt", "--img-size")
DETECT = ("detect_multi_backend.py", "--weights", "{}/pose.onnx", "--source", "{}/data/images",
          "--project", "{}/out", "--exist-ok", "--save-txt", "--device", "cpu")  # fmt: skip
TEST = ("test_multi_backend.py", "--weights", "{}/pose.onnx", "--data", "{}/data/c.yaml",
        "--project", "{}/out", "--exist-ok", "--save-txt", "--save-json", "--results-file",
        "{}/copy/results.json", "--device", "cpu")  # fmt: skip
RESUME = ("train.py", "--resume", "{}/run/weights/last.pt")
IMAGES = ("--image_dir", "{}/data/images", "--label_dir", "{}/data/labels")
COCO = ("--image_dir", "{}/data/images", "--save_file", "{}/made/coco.json")
SPLIT = ("escalator/split.py", "--image_dir", "{}/data/images", "--out_path", "{}/data/parts",
         "--split")  # fmt: skip
COMMANDS: Dict[str, Tuple[Tuple, Tuple]] = {  # name -> (a command, one with other results)
    "json2yolo": (
        ("escalator/json2yolo.py", "--json_dir", "{}/data/annotations", *IMAGES),
        ("escalator/json2yolo.py", "--json_dir", "{}/other", *IMAGES),
    ),
    "json2coco": (
        ("escalator/json2coco.py", "--json_dir", "{}/data/annotations", *COCO),
        ("escalator/json2coco.py", "--json_dir", "{}/other", *COCO),
    ),
    "split": ((*SPLIT, 0.5, 0.25, 0.25), (*SPLIT, 0.25, 0.25, 0.5)),
    "export": ((*ONNX, 64), (*ONNX, 128)),
    "detect": (DETECT, (*DETECT, "--line-thickness", 7, "--conf-thres", 0.95)),
    "test": (TEST, (*TEST, "--conf-thres", 0.95)),
    "train": (RESUME, RESUME),
    "int8": (
        ("models/export_INT8.py", "--onnx", "{}/small.onnx", "--calib_path", "{}/data/images",
         "--calib_num", 2, "--cache_dir", "{}/caches", "--recalibrate"),
        ("models/export_INT8.py", "--onnx", "{}/small.onnx", "--calib_path", "{}/data/images",
         "--calib_num", 3, "--cache_dir", "{}/caches", "--recalibrate"),
    ),
}  # fmt: skip
# have timings in them; name -> whether a file is whole
CHANGING: Dict[str, Callable[[str], bool]] = {
    "summary.json": lambda text: isinstance(json.loads(text), dict),
    "results.json": lambda text: isinstance(json.loads(text), dict),
    "report.html": lambda text: text.rstrip().endswith("</html>"),
}


SIGNALS = {
    "kill": [signal.SIGKILL], "term": [signal.SIGTERM], "interrupt": [signal.SIGINT],
    "twice": [signal.SIGINT, signal.SIGINT],
}  # fmt: skip
PAUSE_S = 0.3  # between two signals
END_S = 5.0
LOADS_CLI_S = 0.3  # until then Python itself answers


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


def prepare(template: Path, folder: Path) -> None:
    """A copy of the template in which no file is left that a script is about to write."""
    shutil.rmtree(str(folder), ignore_errors=True)
    shutil.copytree(str(template), str(folder))
    shutil.copytree(str(folder / "data" / "annotations"), str(folder / "other"))
    for path in (folder / "other").glob("*.json"):
        path.write_text(json.dumps(json.loads(path.read_text())[:1]))


def stop_at_random(command: Tuple, folder: Path, spent: float, signals: List[int]) -> List[str]:
    """Send signals at a random moment; what is wrong with how the process ends."""
    process = start(command, folder)
    time.sleep(max(random.uniform(0, 1) * spent, LOADS_CLI_S))
    for number in signals:
        process.send_signal(number)
        time.sleep(PAUSE_S)
    asked = time.monotonic()
    _, stderr = process.communicate()
    if signals == [signal.SIGKILL] or process.returncode == 0:  # it was done before
        return []
    waited, text = time.monotonic() - asked, stderr.decode()
    # while a script loads its modules it has no handlers yet
    early = process.returncode in (-signals[0], 1) and text in ("", "interrupted\n")
    faults = []
    if not early and (process.returncode, text) != (130, "interrupted\n"):
        faults.append("exit code %d: %r" % (process.returncode, text[-300:]))
    if waited > END_S:
        faults.append("ended after %.1f s" % waited)
    return faults + left(folder)


def one_round(name: str, template: Path, work: Path, *, signals: List[int]) -> List[str]:
    """What is wrong after one kill."""
    folder = work / "case"  # where the run of the template says that it is
    prepare(template, folder)
    if name == "train":
        return train_round(template, folder, signals)
    shutil.rmtree(str(folder / "data" / "labels"))  # made by the library: not the scripts'
    one, other = COMMANDS[name]
    finish(one, folder)
    first = contents(folder)
    spent = finish(other, folder)
    second = contents(folder)
    if not any(d != first.get(p) for p, d in second.items() if os.path.basename(p) not in CHANGING):
        raise RuntimeError("%s: both commands write the same" % name)
    finish(one, folder)
    faults = stop_at_random(other, folder, spent, signals)
    found = contents(folder)
    faults += ["%s is gone" % p for p in first if p not in found]
    for path, digest in found.items():
        base = os.path.basename(path)
        if base.startswith(".tmp"):
            continue
        if base in CHANGING:
            faults += [] if whole(folder / path) else ["%s is not whole" % path]
        elif digest not in (first.get(path), second.get(path)):
            faults.append("%s is neither the old nor the new one" % path)
    finish(other, folder)
    return faults + left(folder)


def whole(path: Path) -> bool:
    try:
        return CHANGING[path.name](path.read_text(encoding="utf-8"))
    except ValueError:
        return False


def left(folder: Path) -> List[str]:
    return ["%s is left" % p for p in contents(folder) if os.path.basename(p)[:4] == ".tmp"]


def train_round(template: Path, folder: Path, signals: List[int]) -> List[str]:
    """What is wrong after a resumed run was killed and resumed once more."""
    spent = finish(RESUME, folder)
    expected = weights_of(folder / "run" / "weights" / "last.pt")
    prepare(template, folder)
    faults = stop_at_random(RESUME, folder, spent, signals)
    last = folder / "run" / "weights" / "last.pt"
    for path in last.parent.glob("[!.]*.pt"):
        weights_of(path)  # a part of a file ends the campaign with an error
    if not is_over(last):
        finish(RESUME, folder)
    if weights_of(last) != expected:
        faults.append("last.pt differs from that of a run that was not stopped")
    return faults + left(folder)


def is_over(last: Path) -> bool:
    """Whether a run was killed after its last file: a whole one, without state to resume."""
    from models.checkpoint import load_training_state
    from utils.errors import InputError

    try:
        load_training_state(last)
    except InputError:
        return True
    return False


def weights_of(path: Path) -> str:
    """Digest of the weights of a checkpoint. Raises InputError where it is not whole."""
    from models.checkpoint import load_checkpoint

    digest = hashlib.sha256()
    for name, tensor in load_checkpoint(path).model.state_dict().items():
        digest.update(name.encode() + tensor.numpy().tobytes())
    return digest.hexdigest()


def main() -> None:
    parser = argparse.ArgumentParser("campaign_kill.py")
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--only", nargs="+", choices=list(COMMANDS), default=list(COMMANDS))
    parser.add_argument("--signal", choices=list(SIGNALS), default="kill")
    args = parser.parse_args()
    random.seed(0)
    work = Path(tempfile.mkdtemp(prefix="kill-"))
    make_template(work / "template")
    bad = 0
    for number in range(args.kills):
        name = args.only[number % len(args.only)]
        faults = one_round(name, work / "template", work, signals=SIGNALS[args.signal])
        bad += bool(faults)
        print("%d %s: %s" % (number + 1, name, faults or "clean"), flush=True)
    print("%d of %d kills not clean" % (bad, args.kills))
    shutil.rmtree(str(work))


if __name__ == "__main__":
    main()
