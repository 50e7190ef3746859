"""Charts, tables and the page that shows them, with names as files may have them."""

import cv2
import numpy as np
import pytest

from utils.dataset.labels import parse_labels
from utils.evaluation import charts
from utils.evaluation.report import Section, Table, write_report
from utils.pose.keypoints import skeleton
from utils.tables import write_csv

NAMES = ["price_$50$.onnx", "$\\frac{$.onnx", "caf\udce9.onnx"]  # the last is not UTF-8


@pytest.mark.parametrize("name", NAMES[:2])
def test_file_names_are_no_formulas(name):
    from matplotlib.text import Text

    shown, is_formula = Text()._preprocess_math(charts._plain(name))
    assert shown == name and not is_formula


def test_any_file_name_can_be_drawn_and_written(tmp_path):
    charts.compare_chart(tmp_path / "compare.png", NAMES, [0.1, 0.2, 0.3], ms=[1.0, 2.0, 3.0])
    charts.study_chart(tmp_path / "study.png", [(n, [(64, 1.0, 0.5)]) for n in NAMES])
    for name in ("compare.png", "study.png"):
        assert np.std(cv2.imread(str(tmp_path / name))) > 0
    rows = [[n, "1"] for n in NAMES]
    write_csv(tmp_path / "x.csv", ["file", "n"], rows)
    section = Section(NAMES[2], [], [Table("x", ["file", "n"], rows)], [])
    write_report(tmp_path / "x.html", "x", [("weights", NAMES[2])], sections=[section])
    for name in ("x.csv", "x.html"):
        assert "caf\\udce9.onnx" in (tmp_path / name).read_text(encoding="utf-8")


@pytest.mark.parametrize("epochs", [1, 2, 3, 300])
def test_epochs_are_whole_numbers(tmp_path, monkeypatch, epochs):
    figures = []
    monkeypatch.setattr(charts, "_save", lambda figure, path: figures.append(figure))
    row = {"loss": 1.0, "kpt_ap": 0.5, "lr": 0.1}
    charts.training_chart(tmp_path / "x.png", [{"epoch": i + 1, **row} for i in range(epochs)])
    for axis in figures[0].axes:
        low, high = axis.get_xlim()
        ticks = [tick for tick in axis.get_xticks() if low <= tick <= high]
        assert ticks and all(tick == int(tick) for tick in ticks)
        assert 1 in ticks or epochs > 3


@pytest.mark.parametrize("cls, classes", [(1e-6, False), (0.1, True)])
def test_the_parts_of_the_loss_add_up(tmp_path, monkeypatch, *, cls, classes):
    figures = []
    monkeypatch.setattr(charts, "_save", lambda figure, path: figures.append(figure))
    parts = {"box": 0.1, "kpt": 0.4, "kpt_conf": 0.2, "obj": 0.3, "cls": cls}
    row = {"loss": sum(parts.values()), **parts, "lr": 0.1}
    charts.training_chart(tmp_path / "x.png", [{"epoch": i, **row} for i in (1, 2)])
    lines = figures[0].axes[0].lines
    values = {line.get_label(): line.get_ydata()[0] for line in lines}
    assert len(values) == 5 + classes == len({line.get_color() for line in lines})
    assert values.pop("all") == pytest.approx(sum(values.values()), abs=1e-5)


@pytest.mark.parametrize("counts", [(1, 1), (0, 1, 2)])
def test_persons_and_images_are_whole_numbers(tmp_path, monkeypatch, counts):
    figures = []
    monkeypatch.setattr(charts, "_save", lambda figure, path: figures.append(figure))
    row = "0 0.5 0.5 0.4 0.4 0.5 0.5 2\n"
    labels = [parse_labels(row * count, 1) for count in counts]
    charts.labels_chart(tmp_path / "x.png", labels, skeleton(1))
    axis = figures[0].axes[0]
    for ticks, limits in (
        (axis.get_xticks(), axis.get_xlim()),
        (axis.get_yticks(), axis.get_ylim()),
    ):
        shown = [tick for tick in ticks if limits[0] <= tick <= limits[1]]
        assert len(shown) > 1 and all(tick == int(tick) for tick in shown)
