import json
import os
import shutil
import subprocess

import pytest

from tests.conftest import ROOT
from tests.scripts import run_inside
from utils.errors import InputError
from utils.files import atomic_path, check_output
from utils.outputs import check_all_replaceable, writing_as

PEOPLE = ROOT / "tests" / "data" / "people"
ODD_NAMES = ["a.txt", "b c.txt", "back\\slash.txt", "back\\n.txt", "new\nline.txt"]


def write(path, text, script="visual", **how):
    with writing_as(script, **how), atomic_path(path) as tmp:
        tmp.write_text(text)


@pytest.fixture
def no_attributes(monkeypatch):
    """A file system that keeps none, as NFS 3."""

    def fail(*args):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(os, "setxattr", fail, raising=False)
    monkeypatch.setattr(os, "getxattr", fail, raising=False)


@pytest.mark.parametrize("name", ODD_NAMES)
def test_what_a_script_wrote_it_may_replace(tmp_path, name):
    path = tmp_path / name
    for text in ("one", "two", "two"):
        write(path, text)
        assert path.read_text() == text
    with writing_as("visual"):
        check_output(path)
        check_output(path.rename(tmp_path / "moved"))


@pytest.mark.parametrize("name", ODD_NAMES)
def test_without_attributes_the_folder_has_a_record(tmp_path, name, no_attributes):
    path = tmp_path / name
    for text in ("one", "two", "two"):
        write(path, text)
        assert path.read_text() == text
    record = tmp_path / ".visual.sha256"
    assert record.read_bytes().count(b"\n") == 2
    path.write_text("one")  # an older output is an output, too
    with writing_as("visual"):
        check_output(path)


def test_the_record_is_one_of_sha256sum(tmp_path, no_attributes):
    for name in ODD_NAMES:
        write(tmp_path / name, name)
    command = ["sha256sum", "-c", ".visual.sha256"]
    assert subprocess.run(command, cwd=str(tmp_path), capture_output=True).returncode == 0


@pytest.mark.parametrize("attributes", [True, False])
def test_files_of_others_stay(tmp_path, attributes, request):
    if not attributes:
        request.getfixturevalue("no_attributes")
    path = tmp_path / "a.txt"
    path.write_text("mine")
    with pytest.raises(InputError, match="a.txt: is there already.*`overwrite`"):
        write(path, "new")
    assert path.read_text() == "mine" and not list(tmp_path.glob(".tmp*"))
    write(path, "mine")  # nothing is lost
    write(path, "new", overwrite=True)
    write(path, "newer")
    assert path.read_text() == "newer"
    with pytest.raises(InputError):  # another script is somebody else
        write(path, "newest", "average")
    path.write_text("corrected by hand")
    with pytest.raises(InputError):
        write(path, "newest")


def test_a_link_is_not_ours(tmp_path):
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    with pytest.raises(InputError):
        write(tmp_path / "dangling", "new")


def test_all_are_counted(tmp_path):
    paths = [tmp_path / name for name in "abc"]
    for path in paths[:2]:
        path.write_text("mine")
    with writing_as("visual"), pytest.raises(InputError, match="/a: .*and 1 more"):
        check_all_replaceable(paths)


def test_a_program_that_uses_the_library_writes_what_it_wants(tmp_path):
    (tmp_path / "a.txt").write_text("old")
    with atomic_path(tmp_path / "a.txt") as tmp:
        tmp.write_text("new")
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def contents(folder):
    return {p: p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.name[0] != "."}


def test_no_script_replaces_what_is_there(tmp_path):
    """Each output of the data scripts lies there already, made by hand."""
    data = tmp_path / "data"
    shutil.copytree(str(PEOPLE), str(data))
    for name in ("labels/people00.txt", "train.txt", "all.json", "drawn/people00.jpg",
                 "check/report.json", "list-equiv.txt"):  # fmt: skip
        (data / name).parent.mkdir(exist_ok=True)
        (data / name).write_text("mine")
    (data / "list.txt").write_text("images/people00.jpg\n")
    (data / "d.yaml").write_text(json.dumps({"train": "list.txt", "names": ["person"]}))
    before = contents(data)
    commands = [
        ("escalator/json2yolo.py", "--json_dir", data / "annotations"),
        ("escalator/split.py", "--image_dir", data / "images", "--out_path", data),
        ("escalator/json2coco.py", "--json_dir", data / "annotations", "--save_file",
         data / "all.json"),
        ("escalator/yolo2coco.py", "--data_file", data / "images", "--save_file",
         data / "all.json"),
        ("escalator/visual.py", "--data_root", data, "--data_file", "images", "--visual_num", 0,
         "--save_dir", data / "drawn"),
        ("escalator/check.py", "--data", data / "d.yaml", "--save_dir", data / "check"),
        ("escalator/extract_equivalent_coco.py", "--custom_data", data / "list.txt",
         "--coco_data", data / "list.txt"),
    ]  # fmt: skip
    for script, *flags in commands:
        done = run_inside(script, *flags)
        assert done.returncode == 1 and "let --overwrite replace it" in done.stderr, script
        assert contents(data) == before, script
    done = run_inside(*commands[0], "--overwrite")
    assert done.returncode == 0, done.stderr
    assert run_inside(*commands[0], "--nkpt", 17).returncode == 0  # its own now


def test_an_image_of_another_format_is_no_old_drawing(tmp_path):
    """The image drawn of images/sub/people00.png is people00.jpg, as the user's own."""
    for part in ("images", "labels"):
        (tmp_path / part / "sub").mkdir(parents=True)
    shutil.copy(str(PEOPLE / "images" / "people00.jpg"), str(tmp_path / "images" / "people00.jpg"))
    shutil.copy(str(PEOPLE / "images" / "people01.jpg"), str(tmp_path / "images/sub/people00.png"))
    (tmp_path / "labels" / "sub" / "people00.txt").write_text("")
    (tmp_path / "list.txt").write_text("images/sub/people00.png\n")
    before = contents(tmp_path)
    flags = ("--data_root", tmp_path, "--data_file", "list.txt", "--save_dir", tmp_path / "images")
    done = run_inside("escalator/visual.py", *flags)
    assert done.returncode == 1 and contents(tmp_path) == before


def test_split_removes_no_list_of_the_user(tmp_path):
    (tmp_path / "test.txt").write_text("mine\n")
    flags = ("--image_dir", PEOPLE / "images", "--out_path", tmp_path, "--split", 0.5, 0.5)
    done = run_inside("escalator/split.py", *flags)
    assert done.returncode == 1
    assert contents(tmp_path) == {tmp_path / "test.txt": b"mine\n"}
