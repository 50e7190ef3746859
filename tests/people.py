"""The people of tests/data/people as a data set that train.py takes."""

import shutil
from pathlib import Path

from tests.conftest import ROOT, tiny_cfg
from tests.scripts import run_inside

PEOPLE = ROOT / "tests" / "data" / "people"


def make_people(folder: Path, *, val: int = 4) -> Path:
    """Labels, lists, data.yaml and tiny.yaml, a cfg of 0.3 M parameters; returns the folder.

    Args: val: of the twelve images, how many of the last four are for validation; eight train.
    """
    import yaml

    shutil.copytree(str(PEOPLE), str(folder / "people"))
    done = run_inside("escalator/json2yolo.py", "--json_dir", folder / "people" / "annotations",
                      "--label_dir", folder / "people" / "labels")  # fmt: skip
    assert done.returncode == 0, done.stderr
    names = sorted(p.name for p in (folder / "people" / "images").iterdir())
    for task, part in (("train", names[:8]), ("val", names[8 : 8 + val])):
        (folder / "people" / (task + ".txt")).write_text("".join("./images/%s\n" % n for n in part))
    (folder / "data.yaml").write_text(
        "train: people/train.txt\nval: people/val.txt\nnc: 1\nnames: [person]\n"
    )
    (folder / "tiny.yaml").write_text(yaml.safe_dump(tiny_cfg()))
    return folder
