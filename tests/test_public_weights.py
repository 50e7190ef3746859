import hashlib

import pytest

pytest.importorskip("torch")

from models.public_weights import KNOWN, get_args_parser, main, sha256_of, verify  # noqa: E402
from tests.conftest import ROOT  # noqa: E402
from utils.errors import InputError  # noqa: E402

SHIPPED = ROOT / "weights" / "yolov5n6_pose.pt"


def run(*argv):
    main(get_args_parser().parse_args([str(a) for a in argv]))


def test_it_says_where_the_checkpoints_are(capsys):
    run()
    out = capsys.readouterr().out
    assert "https://" in out and "69.4" in out and "public_weights.py FILE" in out


def test_the_shipped_weights_are_those_of_the_card(capsys):
    run(SHIPPED)
    assert "3.9 M parameters, 17 keypoints" in capsys.readouterr().out
    card = (ROOT / "weights" / "README.md").read_text(encoding="utf-8")
    assert sha256_of(SHIPPED) == KNOWN[SHIPPED.name] and KNOWN[SHIPPED.name] in card
    assert SHIPPED.stat().st_size <= 10_000_000


def test_another_hash_is_an_error(tmp_path, capsys):
    cut = tmp_path / SHIPPED.name
    cut.write_bytes(SHIPPED.read_bytes()[:-1])
    with pytest.raises(InputError, match="not the expected file: the hash known"):
        verify(cut, "")
    with pytest.raises(InputError, match="not the expected file: --sha256"):
        verify(SHIPPED, "0" * 64)


def test_a_page_of_a_web_server_is_an_error(tmp_path):
    page = tmp_path / "yolov5s6_pose.pt"
    page.write_text("<html>not found</html>")
    assert sha256_of(page) == hashlib.sha256(page.read_bytes()).hexdigest()
    with pytest.raises(InputError, match="yolov5s6_pose.pt"):
        verify(page, "")
    with pytest.raises(InputError, match="can't be read"):
        verify(tmp_path / "none.pt", "")
    with pytest.raises(InputError, match="--sha256: of which file"):
        run("--sha256", "0" * 64)
