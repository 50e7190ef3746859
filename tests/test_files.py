import os

import pytest

from tests.conftest import not_root
from utils.errors import InputError
from utils.files import atomic_path, check_writable, increment_dir, walk_files


def test_atomic_path_keeps_suffix_and_makes_folders(tmp_path):
    target = tmp_path / "a" / "b.json"
    with atomic_path(target) as tmp:
        assert tmp.suffix == ".json" and tmp.parent == target.parent
        tmp.write_text("x")
        assert not target.exists()
    assert target.read_text() == "x" and [p.name for p in target.parent.iterdir()] == ["b.json"]


def test_atomic_path_keeps_the_old_file_on_failure(tmp_path):
    target = tmp_path / "a.txt"
    target.write_text("old")
    with pytest.raises(RuntimeError), atomic_path(target) as tmp:
        tmp.write_text("half")
        raise RuntimeError
    assert target.read_text() == "old" and len(list(tmp_path.iterdir())) == 1


def test_check_writable_leaves_nothing(tmp_path):
    (tmp_path / "empty").mkdir()
    for folder in ("new", "new/deep", "empty", "empty/deep"):
        check_writable(tmp_path / folder / "b.trt")
    with pytest.raises(InputError, match="is a folder"):
        check_writable(tmp_path / "empty")
    (tmp_path / "file").write_bytes(b"")
    long = "a" * 300
    for wrong in ("file/b.trt", "file/deep/b.trt", "new/%s/b.trt" % long):
        with pytest.raises(InputError, match="cannot write into this folder"):
            check_writable(tmp_path / wrong)
    assert sorted(p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*")) == [
        "empty", "file",
    ]  # fmt: skip


def test_atomic_path_leaves_no_folder_of_a_file_that_was_not_written(tmp_path):
    (tmp_path / "old").mkdir()
    for folder in ("old", "old/new", "new/deep"):
        with pytest.raises(RuntimeError), atomic_path(tmp_path / folder / "a.txt"):
            raise RuntimeError
    assert list(tmp_path.rglob("*")) == [tmp_path / "old"]
    target = tmp_path / "new" / "a.txt"
    with pytest.raises(RuntimeError), atomic_path(target):
        target.write_text("of another process")
        raise RuntimeError
    assert target.read_text() == "of another process"


def test_two_machines_with_one_process_number(tmp_path, monkeypatch):
    """Containers that write into one folder are all process 1."""
    monkeypatch.setattr(os, "getpid", lambda: 1)
    with atomic_path(tmp_path / "a.txt") as one, atomic_path(tmp_path / "a.txt") as other:
        assert one != other and len(one.name) <= 20
        assert "-" not in one.name  # no count: two machines count alike
        one.write_text("1")
        other.write_text("2")


def test_walk_files(tmp_path):
    names = ["a.txt", "b/c.txt", "z/d.txt"]
    for name in [*names, ".hidden", "out/e.txt"]:
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).write_text("")
    root = tmp_path / "in"
    os.replace(str(root / "out"), str(tmp_path / "out"))
    links = {"a": root / "z", "b/link": tmp_path / "out", "b/up": root, "twice": tmp_path / "out"}
    for link, target in links.items():
        (root / link).symlink_to(target, target_is_directory=True)
    found = [os.path.relpath(path, str(root)) for path in walk_files(root)]
    assert found == sorted([*names, "b/link/e.txt"]) or found == sorted([*names, "twice/e.txt"])


def test_increment_dir_counts_up(tmp_path):
    names = [increment_dir(tmp_path, "exp").name for _ in range(3)]
    assert names == ["exp", "exp2", "exp3"]
    (tmp_path / "exp9").mkdir()
    assert increment_dir(tmp_path, "exp").name == "exp10"
    assert increment_dir(tmp_path, "exp", exist_ok=True).name == "exp"


def test_increment_dir_names_the_folder_it_cannot_make(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="file"):
        increment_dir(tmp_path / "file", "exp")


@not_root
def test_read_only_folder(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(InputError, match="--project"):
        increment_dir(tmp_path, "exp")
