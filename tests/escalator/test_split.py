import os

import numpy as np
import pytest

from escalator.extract_equivalent_coco import choose
from escalator.split import persons_on, split, split_counts, split_names
from tests.scripts import run_inside, run_script
from utils.dataset.labels import list_images
from utils.errors import InputError, InputWarning

RATIOS = [0.7, 0.2, 0.1]


def folder(tmp_path, count=20):
    for i in range(count):
        path = tmp_path / "images" / ("sub" if i % 2 else ".") / ("图%d.jpg" % i)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    return str(tmp_path / "images")


def lines(tmp_path, name):
    return (tmp_path / name).read_text(encoding="utf-8").splitlines()


def test_exact_partition(tmp_path):
    images = folder(tmp_path)
    for _ in range(2):  # lists are replaced, and the same again
        assert split(images, "./images/", str(tmp_path), ratios=RATIOS) == [14, 4, 2]
    parts = [lines(tmp_path, name) for name in ("train.txt", "val.txt", "test.txt")]
    together = sorted(sum(parts, []))
    assert len(together) == len(set(together)) == 20
    assert all(line.startswith("./images/") for line in together)
    found = [list_images(tmp_path / name) for name in ("train.txt", "val.txt", "test.txt")]
    assert sorted(sum(found, [])) == list_images(images)
    split(images, "./images/", str(tmp_path), ratios=RATIOS, seed=1)
    assert lines(tmp_path, "train.txt") != parts[0]


def test_a_list_of_an_earlier_split_goes(tmp_path, capsys):
    images = folder(tmp_path)
    split(images, "./images/", str(tmp_path), ratios=RATIOS)
    assert split(images, "./images/", str(tmp_path), ratios=[0.5, 0.5]) == [10, 10, 0]
    assert not (tmp_path / "test.txt").exists() and "removed" in capsys.readouterr().out


def test_a_split_that_fails_leaves_the_earlier_one(tmp_path):
    images = folder(tmp_path)
    split(images, "./images/", str(tmp_path), ratios=RATIOS)
    before = {p.name: p.read_bytes() for p in tmp_path.glob("*.txt")}
    (tmp_path / "images" / "a.jpg").write_bytes(b"")
    os.replace(images + "/a.jpg", os.fsencode(images) + b"/\xe9.jpg")
    for seed in range(3):
        with pytest.raises(InputError, match=r"udce9.jpg: a file name that is not UTF-8"):
            split(images, "./images/", str(tmp_path), ratios=[0.5, 0.5], seed=seed)
    os.unlink(os.fsencode(images) + b"/\xe9.jpg")
    (tmp_path / "val.txt").unlink()
    (tmp_path / "val.txt").mkdir()
    with pytest.raises(InputError, match="val.txt: is a folder"):
        split(images, "./images/", str(tmp_path), ratios=RATIOS, seed=1)
    (tmp_path / "val.txt").rmdir()
    del before["val.txt"]
    assert {p.name: p.read_bytes() for p in tmp_path.glob("*.txt")} == before
    assert not list(tmp_path.glob(".*"))


def test_a_prefix_that_leads_nowhere(tmp_path):
    with pytest.warns(InputWarning, match="`prefix_path` ./photos/: there is no"):
        split(folder(tmp_path), "./photos/", str(tmp_path), ratios=RATIOS)


@pytest.mark.parametrize("total", [0, 1, 2, 3, 4, 9, 10, 99, 100, 101, 12345])
@pytest.mark.parametrize("ratios", [RATIOS, [0.8, 0.1, 0.1], [1 / 3] * 3, [0.5, 0, 0.5], [1, 0, 0]])
def test_counts(total, ratios):
    counts = split_counts(total, ratios)
    assert sum(counts) == total and min(counts) >= 0
    assert all(abs(c - total * r) < 2 for c, r in zip(counts, ratios))
    if total >= 10:
        assert all(abs(c - total * r) < 1 for c, r in zip(counts, ratios))
    assert all(c == 0 for c, r in zip(counts, ratios) if r == 0)
    if total >= 3:
        assert all(c > 0 for c, r in zip(counts, ratios) if r > 0)


def test_stratified():
    rng = np.random.default_rng(0)
    names = ["%d" % i for i in range(1000)]
    groups = rng.choice([0, 1, 2, 4], 1000, p=[0.5, 0.3, 0.15, 0.05]).tolist()
    parts = split_names(names, RATIOS, 0, groups=groups)
    assert [len(p) for p in parts] == [700, 200, 100]
    for group in (0, 1, 2, 4):
        total = groups.count(group)
        for part, ratio in zip(parts, RATIOS):
            assert abs(sum(groups[int(n)] == group for n in part) - total * ratio) <= 1
    assert parts == split_names(names, RATIOS, 0, groups=groups)


def test_persons_on(tmp_path):
    for count, group in ((0, 0), (1, 1), (2, 2), (3, 2), (4, 4), (9, 4)):
        (tmp_path / "a.txt").write_text("\ufeff" + "x\n" * count + "\n", encoding="utf-8")
        assert persons_on(str(tmp_path / "a.jpg")) == group
    with pytest.raises(InputError, match="convert the annotations first"):
        persons_on(str(tmp_path / "b.jpg"))


@pytest.mark.parametrize(
    "ratios, reason",
    [
        ([0.7, 0.2, 0.2], "the ratios sum to 1.1"),
        ([1.2, -0.2], "each ratio must be 0 to 1"),
        ([float("nan"), 0.5, 0.5], "each ratio"),
        ([1.0], "two or three ratios"),
        ([0.25] * 4, "two or three ratios"),
    ],
)
def test_ratios(tmp_path, ratios, reason):
    with pytest.raises(InputError, match=reason):
        split(folder(tmp_path), "./images/", str(tmp_path), ratios=ratios)
    assert not list(tmp_path.glob("*.txt"))


def test_what_cannot_be_split(tmp_path):
    with pytest.raises(InputError, match="no such folder"):
        split(str(tmp_path / "none"), "", str(tmp_path), ratios=RATIOS)
    images = folder(tmp_path, 2)
    with pytest.raises(InputError, match="2 images for 3 lists"):
        split(images, "", str(tmp_path), ratios=RATIOS)
    (tmp_path / "images" / "图0.png").write_bytes(b"")
    with pytest.raises(InputError, match="图0.jpg and 图0.png would share"):
        split(images, "", str(tmp_path), ratios=RATIOS)


def test_equivalent_coco(tmp_path):
    (tmp_path / "train.txt").write_text("a.jpg\nb.jpg\nb.jpg\n\n")
    coco = tmp_path / "train2017.txt"
    coco.write_text("".join("./images/%d.jpg\n" % i for i in range(9)))
    flags = ["--custom_data", tmp_path / "train.txt", "--coco_data", coco]
    for _ in range(2):
        done = run_script("escalator/extract_equivalent_coco.py", *flags)
        assert done.returncode == 0, done.stderr
        chosen = lines(tmp_path, "train2017-equiv.txt")
        assert len(chosen) == 2 and chosen == choose(lines(tmp_path, "train2017.txt"), 2, 0)
    assert choose(list("abc"), 5, 0) == list("abc")
    coco.write_text("a\n")
    done = run_script("escalator/extract_equivalent_coco.py", *flags)
    assert done.returncode == 0 and "warning" in done.stdout
    coco.write_text("\n")
    done = run_script("escalator/extract_equivalent_coco.py", *flags)
    error = "error: --coco_data %s: an empty list; expected a list file" % coco
    assert done.returncode == 1 and done.stderr.startswith(error)


def test_fewer_coco_images_than_custom_ones(tmp_path):
    (tmp_path / "own.txt").write_text("a.png\nb.png\nc.png\n")
    (tmp_path / "coco.txt").write_text("1.png\n2.png\n")
    done = run_inside(
        "escalator/extract_equivalent_coco.py",
        "--custom_data", tmp_path / "own.txt", "--coco_data", tmp_path / "coco.txt",
    )  # fmt: skip
    assert done.returncode == 0 and (tmp_path / "coco-equiv.txt").read_text() == "1.png\n2.png\n"
    warning = "warning: %s has 3 lines, more than %s" % (
        tmp_path / "own.txt",
        tmp_path / "coco.txt",
    )
    written = "%s: 2 of 2 lines of %s" % (tmp_path / "coco-equiv.txt", tmp_path / "coco.txt")
    assert done.stdout.splitlines() == [written, warning]
