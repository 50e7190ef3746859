import pytest

from tests.conftest import not_root
from utils.errors import InputError
from utils.files import atomic_path, increment_dir


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
