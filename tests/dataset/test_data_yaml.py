import pytest

from utils.dataset.data_yaml import read_data
from utils.errors import InputError, InputWarning


def write(tmp_path, text):
    path = tmp_path / "d.yaml"
    path.write_text(text)
    return path


@pytest.fixture
def folder(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / (name + ".jpg")).write_bytes(b"")
    (tmp_path / "val.txt").write_text("./a/a.jpg\n")
    (tmp_path / "val.json").write_text("{}")
    return tmp_path


def test_reads_lists_folders_and_lists_of_them(folder):
    data = read_data(
        write(
            folder,
            "train: [a, b, val.txt]\nval: val.txt\nnc: 1\nnames: [person]\n"
            "val-annotations: val.json\n",
        )
    )
    assert data.images("train") == [str(folder / "a" / "a.jpg"), str(folder / "b" / "b.jpg")]
    assert data.images("val") == [str(folder / "a" / "a.jpg")]
    assert data.annotations("val") == str(folder / "val.json")
    assert data.annotations("train") is None
    assert (data.nc, data.nkpt, data.sigmas) == (1, 17, None)
    with pytest.raises(InputError, match="no key test; it has train, val"):
        data.images("test")


def test_paths_of_the_working_directory(folder, tmp_path_factory, monkeypatch):
    monkeypatch.chdir(folder)
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    data = read_data(write(elsewhere, "val: val.txt\nnames: {0: person}\n"))
    assert len(data.images("val")) == 1


@pytest.mark.parametrize(
    "text, reason",
    [
        ("val: 3\nnames: [a]", "expected a path, got 3"),
        ("val: val.txt", "names: expected a list"),
        ("val: val.txt\nnames: person", "names: expected a list"),
        ("val: val.txt\nnames: {1: a}", "names: expected a list"),
        ("val: val.txt\nnc: 2\nnames: [a]", "nc is 2, but there are 1 names"),
        ("val: val.txt\nnkpt: many\nnames: [a]", "nkpt many"),
        ("val: val.txt\nnkpt: 2\nsigmas: [0.1]\nnames: [a]", "expected 2 positive numbers"),
        ("val: val.txt\nnkpt: 1\nsigmas: [-1]\nnames: [a]", "expected 1 positive numbers"),
        ("[1, 2]", "expected keys"),
        ("val: [", "not YAML"),
    ],
)
def test_errors_name_file_and_key(folder, text, reason):
    path = write(folder, text)
    with pytest.raises(InputError, match=reason) as e:
        read_data(path)
    assert str(path) in str(e.value)


def test_what_is_missing_is_an_error_when_asked_for(folder):
    text = "train: val.txt\nval: [none.txt]\nval-annotations: x.json\nnames: [a]\n"
    data = read_data(write(folder, text))
    assert len(data.images("train")) == 1
    with pytest.raises(InputError, match="val: none.txt is neither beside"):
        data.images("val")
    with pytest.raises(InputError, match="val-annotations: x.json is neither beside"):
        data.annotations("val")


def test_unknown_keys_are_named(folder):
    with pytest.warns(InputWarning, match="roboflow"):
        read_data(write(folder, "val: val.txt\nnames: [a]\nroboflow: x\n"))


def test_no_file(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        read_data(tmp_path / "none.yaml")
