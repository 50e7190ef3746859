from pathlib import Path

import pytest

from utils.dataset.data_yaml import assumptions, read_data
from utils.errors import InputError, InputWarning
from utils.pose.keypoints import COCO


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
    assert (data.nc, data.nkpt, data.skeleton) == (1, 17, COCO)
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
        ("val: val.txt\nnames: {1: a}", "names: 0 is missing"),
        ("val: val.txt\nnc: 2\nnames: [a]", "nc is 2, but there are 1 names"),
        ("val: val.txt\nnkpt: many\nnames: [a]", "nkpt: many"),
        ("val: val.txt\nnkpt: 2\nsigmas: [0.1]\nnames: [a]", "expected 2 positive numbers"),
        ("val: val.txt\nnkpt: 1\nsigmas: [-1]\nnames: [a]", "expected 1 positive numbers"),
        ("val: val.txt\nnames: {0: a, 2: b}", "names: 1 is missing"),
        ("val: val.txt\nnames: [a, a]", "names: a is there twice"),
        ("val: val.txt\nnkpt: 2\nflip_idx: [1, 1]\nnames: [a]", "flip_idx: mirrored twice"),
        ("val: val.txt\npath: [a]\nnames: [a]", "path: expected a folder"),
        ("[1, 2]", "with the keys train, val and names"),
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
    with pytest.raises(
        InputError, match=r"val: none.txt is neither beside .*; correct the path, or"
    ):
        data.images("val")
    with pytest.raises(
        InputError, match=r"val-annotations: x.json is neither .*json2coco.py\), or drop"
    ):
        data.annotations("val")


def test_unknown_keys_are_named(folder):
    with pytest.warns(InputWarning, match="kpt_names2"):
        read_data(write(folder, "val: val.txt\nnames: [a]\nroboflow: x\nkpt_names2: x\n"))


def test_no_file(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        read_data(tmp_path / "none.yaml")


def test_keypoints_are_declared_in_one_place(folder):
    text = (
        "val: val.txt\nnames: {0: box, 1: 7}\nkpt_shape: [4, 2]\nflip_idx: [1, 0, 3, 2]\n"
        "kpt_names: [tl, tr, br, bl]\nskeleton: [[1, 2], [tr, br]]\nkpt_sigmas: 0.05\n"
    )
    data = read_data(write(folder, text))
    assert data.names == ["box", "7"] and (data.nkpt, data.declared.dims) == (4, 2)
    assert data.skeleton.flip_index == (1, 0, 3, 2) and data.skeleton.limbs == ((0, 1), (1, 2))
    assert assumptions(data) == []


@pytest.mark.parametrize(
    "keys, line",
    [
        ("nkpt: 4", "no flip_idx, so images are not mirrored"),
        ("nkpt: 17", "17 keypoints of car are taken as COCO's"),
        ("kpt_names: [left_a, right_a]", "pairs are taken from the names"),
        ("nkpt: 4\nflip_idx: [0, 1, 2, 3]", ""),
    ],
)
def test_what_is_taken_for_granted_is_said(folder, keys, line):
    found = assumptions(read_data(write(folder, "val: val.txt\nnames: [car]\n" + keys)))
    assert len(found) == bool(line) and line in "".join(found)


@pytest.mark.parametrize(
    "text",
    [
        "path: {root}\nval: images",
        "path: set\nval: images",
        "path: .\nval: ../set/images",  # beside a folder that does not exist there
        "val: ../set/images",
    ],
)
def test_paths_as_other_tools_write_them(tmp_path, text):
    (tmp_path / "set" / "images").mkdir(parents=True)
    (tmp_path / "set" / "images" / "a.jpg").write_bytes(b"")
    text = text.format(root=tmp_path / "set")
    data = read_data(write(tmp_path, text + "\nnames: [a]\n"))
    assert [Path(p).name for p in data.images("val")] == ["a.jpg"]


@pytest.mark.parametrize(
    "text",
    [
        "val: /content/hands-2/set/images",
        "val: hands-2/set/images",
        "val: C:\\\\Users\\\\me\\\\hands-2\\\\set\\\\images",
        "path: C:/hands-2\nval: /home/me/hands-2/set/val.txt",
    ],
)
def test_paths_of_another_computer(tmp_path, text):
    for name in ("set/images", "images"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "a.jpg").write_bytes(b"")
    (tmp_path / "set" / "val.txt").write_text("images/a.jpg\n")
    with pytest.warns(InputWarning, match="val: no .* on this computer; .* is taken"):
        data = read_data(write(tmp_path, text + "\nnames: [a]\n"))
    assert data.images("val") == [str(tmp_path / "set" / "images" / "a.jpg")]


def test_a_folder_that_could_be_any_is_not_taken(tmp_path):
    (tmp_path / "images").mkdir()
    data = read_data(write(tmp_path, "val: /home/me/images\nnames: [a]\n"))
    with pytest.raises(InputError, match="val: /home/me/images is neither"):
        data.images("val")


@pytest.mark.parametrize("keys", [("train", "valid"), ("Train", "Validation"), ("train", "val")])
def test_tasks_as_other_tools_call_them(folder, keys):
    data = read_data(write(folder, "%s: a\n%s: val.txt\nnames: [x]\n" % keys))
    assert set(data.splits) == {"train", "val"} and len(data.images("val")) == 1


def test_a_path_that_is_nowhere_is_named(tmp_path):
    data = read_data(write(tmp_path, "path: gone\nval: images\nnames: [a]\n"))
    with pytest.raises(InputError, match="val: images is neither below path gone nor beside"):
        data.images("val")


def test_a_folder_is_no_data_yaml(tmp_path):
    with pytest.raises(InputError, match="is a folder, expected a data yaml"):
        read_data(tmp_path)


def test_the_yaml_of_coco_names_the_script_that_prepares_it(folder):
    content = "train: no.txt\nval: no.txt\nval-annotations: no.json\nnc: 1\nnames: [person]\n"
    for name, task_way, json_way in (
        ("coco_kpts.yaml", "prepare_coco.sh", "prepare_coco.sh"),
        ("own.yaml", "split.py", "json2coco.py"),
    ):
        (folder / name).write_text(content)
        data = read_data(folder / name)
        with pytest.raises(InputError, match="train: .*; .*" + task_way):
            data.images("train")
        with pytest.raises(InputError, match="val-annotations: .*; .*" + json_way):
            data.annotations("val")
