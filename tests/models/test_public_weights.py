import hashlib

import pytest

pytest.importorskip("torch")

from models import public_weights  # noqa: E402
from models.checkpoint import load_checkpoint, save_checkpoint  # noqa: E402
from models.public_weights import KNOWN, get_args_parser, main, sha256_of, verify  # noqa: E402
from models.yolo import Model  # noqa: E402
from tests.conftest import ROOT, tiny_cfg  # noqa: E402
from utils.errors import InputError  # noqa: E402

SHIPPED = ROOT / "weights" / "yolov5n6_pose.pt"
LARGER = ROOT / "weights" / "yolov5s6_pose.pt"


def run(*argv):
    main(get_args_parser().parse_args([str(a) for a in argv]))


def test_it_says_where_the_checkpoints_are(capsys):
    run()
    out = capsys.readouterr().out
    assert "https://" in out and "69.4" in out and "public_weights.py FILE" in out


@pytest.mark.parametrize(
    "path, parameters, size", [(SHIPPED, "3.9 M", 10_000_000), (LARGER, "15.1 M", 32_000_000)]
)
def test_the_shipped_weights_are_those_of_the_card(capsys, path, parameters, size):
    run(path)
    assert parameters + " parameters, 17 keypoints" in capsys.readouterr().out
    card = (ROOT / "weights" / "README.md").read_text(encoding="utf-8")
    assert sha256_of(path) == KNOWN[path.name] and KNOWN[path.name] in card
    assert path.stat().st_size <= size


@pytest.mark.parametrize("path, limit", [(SHIPPED, 0.25), (LARGER, 0.12)])
@pytest.mark.parametrize("hw, greys", [((640, 640), (100, 114)), ((320, 320), (0, 114, 200))])
def test_nobody_is_seen_in_a_plain_image(path, limit, hw, greys):
    """These two were trained without plain images, so nothing but this test guards them."""
    import torch

    model = load_checkpoint(path).model.fuse()
    for grey in greys:
        with torch.no_grad():
            rows = model(torch.full((1, 3, *hw), grey / 255))[0]
        assert float((rows[:, 4] * rows[:, 5]).max()) < limit


def test_another_hash_is_an_error(tmp_path, monkeypatch):
    cut = tmp_path / "weights" / SHIPPED.name
    cut.parent.mkdir()
    cut.write_bytes(SHIPPED.read_bytes()[:-1])
    monkeypatch.setattr(public_weights, "OURS", cut.parent)
    with pytest.raises(
        InputError, match="not the expected file: the hash of the .* of this repository.*restore it"
    ):
        verify(cut, "")
    with pytest.raises(InputError, match="not the expected file: `sha256`"):
        verify(SHIPPED, "0" * 64)


def test_another_file_of_that_name_elsewhere_is_none_of_ours(tmp_path, capsys):
    other = tmp_path / LARGER.name
    save_checkpoint(other, Model(tiny_cfg()))
    verify(other, "")
    assert "no hash to compare with" in capsys.readouterr().out
    other.write_bytes(SHIPPED.read_bytes())
    verify(other, "")
    assert "it is the yolov5n6_pose.pt of this repository" in capsys.readouterr().out


def test_a_page_of_a_web_server_is_an_error(tmp_path):
    page = tmp_path / "yolov5l6_pose.pt"
    page.write_text("<html>not found</html>")
    assert sha256_of(page) == hashlib.sha256(page.read_bytes()).hexdigest()
    with pytest.raises(InputError, match="yolov5l6_pose.pt"):
        verify(page, "")
    with pytest.raises(InputError, match="no such file"):
        verify(tmp_path / "none.pt", "")
    with pytest.raises(InputError, match="`sha256`: of which file"):
        run("--sha256", "0" * 64)
