import pytest
import yaml

from tests.conftest import ROOT
from utils.errors import InputError
from utils.training.hyper_parameters import Hyp, check_hyp, read_hyp

SCRATCH = ROOT / "data" / "hyp.scratch.yaml"


@pytest.mark.parametrize("name", ["scratch", "finetune_evolve", "finetune_custom", "n6", "collage"])
def test_shipped_files(name):
    hyp = read_hyp(ROOT / "data" / ("hyp.%s.yaml" % name))
    assert 0 < hyp.lr0 < 0.1 and 0 <= hyp.mosaic <= 1


def test_defaults_of_newer_keys():
    hyp = read_hyp(SCRATCH)
    assert (hyp.zoom, hyp.obj_oks) == (1.0, 0.0)
    assert (hyp.collage, hyp.blank, hyp.close_mosaic, hyp.close_norm) == (0.0, 0.0, 0.0, 0.0)


@pytest.mark.parametrize(
    "change, words",
    [
        ({"lr0": None}, "lr0 is None"),
        ({"lr0": "1e-4"}, "1.0e-4"),
        ({"lr0": 11}, "expected 0 to 10"),
        ({"mosaic": 1.5}, "mosaic is 1.5"),
        ({"lr0": float("nan")}, "lr0 is nan"),
        ({"learning_rate": 0.1}, "unknown keys learning_rate"),
        ({"mosaic": True}, "expected a number"),
    ],
)
def test_faults_are_named(change, words):
    content = {**yaml.safe_load(SCRATCH.read_text()), **change}
    with pytest.raises(InputError, match=words):
        check_hyp(content, "--hyp x.yaml")


def test_missing_keys_are_named(tmp_path):
    path = tmp_path / "hyp.yaml"
    path.write_text("lr0: 0.01\n")
    with pytest.raises(InputError, match=r"hyp.yaml: misses lrf, momentum, .*mixup; compare"):
        read_hyp(path)
    path.write_text("- 1\n")
    with pytest.raises(InputError, match="expected keys"):
        read_hyp(path)
    with pytest.raises(InputError, match="no such file"):
        read_hyp(tmp_path / "none.yaml")


def test_round_trip():
    hyp = read_hyp(SCRATCH)
    assert check_hyp(dict(hyp._asdict()), "x") == hyp and isinstance(hyp, Hyp)
