import pytest

torch = pytest.importorskip("torch")

from models.checkpoint import TrainingState, save_checkpoint  # noqa: E402
from models.yolo import Model  # noqa: E402
from tests.conftest import ROOT, tiny_cfg  # noqa: E402
from utils.errors import InputError, InputWarning  # noqa: E402
from utils.training.config import TrainConfig  # noqa: E402
from utils.training.distributed import Ranks  # noqa: E402
from utils.training.hyper_parameters import read_hyp  # noqa: E402
from utils.training.progress import Progress  # noqa: E402
from utils.training.resume import resumed  # noqa: E402
from utils.training.run import check_statistics, hyp_line  # noqa: E402


def best_of(tmp_path, rows):
    progress = Progress(TrainConfig(cfg="x.yaml"), tmp_path, Ranks(rank=1, world=2))
    for epoch, row in enumerate(rows, 1):
        if progress._is_best(row):
            progress.best, progress.best_box = row["kpt_ap"], row["box_ap"]
            progress.best_epoch = epoch
    return progress


@pytest.mark.parametrize(
    "figures, epoch",
    [
        ([(0, 0.1), (0, 0.3), (0, 0.2)], 2),  # by box AP
        ([(0, 0), (0, 0), (-1, -1)], 3),  # then the later one
        ([(0, 0.9), (0.1, 0.2), (0.1, 0.9), (0, 1)], 2),  # any keypoint AP beats none
        ([(0.2, 0.1), (0.3, 0.0)], 2),
    ],
)
def test_the_best_epoch(tmp_path, figures, epoch):
    progress = best_of(tmp_path, [{"kpt_ap": k, "box_ap": b} for k, b in figures])
    assert progress.best_epoch == epoch
    assert ("box AP" in progress.verdict()) == (progress.best <= 0)


def test_resume_says_what_it_ignores_and_may_grow(tmp_path):
    config = TrainConfig(cfg="x.yaml", epochs=5, batch_size=4, project="runs/a")
    hyp = read_hyp(str(ROOT / "data" / "hyp.scratch.yaml"))._asdict()
    plain = {"epoch": 2, "best": -1.0, "best_box": -1.0, "best_epoch": 0, "updates": 0}
    state = TrainingState({**plain, "args": config.plain(), "hyp": dict(hyp)}, {})
    path = tmp_path / "last.pt"
    save_checkpoint(path, Model(tiny_cfg()), training=state)
    asked = TrainConfig(resume=str(path), epochs=9, batch_size=8, workers=1, cfg="x.yaml")
    with pytest.warns(InputWarning, match=r"ignored are `batch_size` \(4\)$"):
        found = resumed(asked)
    assert (found.epochs, found.batch_size, found.workers) == (9, 4, 1)
    with pytest.warns(InputWarning, match=r"`epochs` \(5\)"):
        assert resumed(TrainConfig(resume=str(path), epochs=3)).epochs == 5


@pytest.mark.parametrize(
    "batch, size, more, good",
    [
        (1, (64, 64), {}, False),
        (1, (64, 128), {}, True),
        (2, (64, 64), {}, True),
        (1, (128, 128), {}, True),
        (1, (128, 128), {"multi_scale": True}, False),
    ],
)
def test_one_value_has_no_statistics(batch, size, more, good):
    config = TrainConfig(cfg="x.yaml", batch_size=batch, **more)
    if good:
        check_statistics(config, size, 64, world=1)
    else:
        with pytest.raises(InputError, match="`batch_size` 1 at `img_size` .* `batch_size` 2"):
            check_statistics(config, size, 64, world=1)


@pytest.mark.parametrize(
    "weights, hyp, noted",
    [("x.pt", {}, True), ("", {}, False), ("x.pt", {"hyp": "data/hyp.n6.yaml"}, False)],
)
def test_fine_tuning_without_hyp_is_noted(weights, hyp, *, noted):
    config = TrainConfig(weights=weights, cfg="x.yaml", **hyp)
    line = hyp_line(config)
    assert line.startswith("hyper-parameters: %s" % config.hyp)
    assert ("`hyp` data/hyp.finetune_custom.yaml is meant" in line) == noted


def test_nosave_names_a_best_epoch_that_is_saved(tmp_path, monkeypatch):
    config = TrainConfig(cfg="x.yaml", nosave=True)
    progress, saved = Progress(config, tmp_path, Ranks(rank=1, world=2)), []
    monkeypatch.setattr(progress, "_save", lambda path, *_, **__: saved.append(path.name))
    monkeypatch.setattr(progress, "_add", lambda row: setattr(progress, "epoch", row["epoch"]))
    for epoch, ap in ((1, 0.3), (2, 0.1)):
        row = {"epoch": epoch, "kpt_ap": ap, "box_ap": 0.0, "plain_score": 0.0}
        progress.finish_epoch(None, row, last=epoch == 2)
    assert saved == ["best.pt"] and "in epoch 2" in progress.verdict()
