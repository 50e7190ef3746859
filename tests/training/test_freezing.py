"""The end of a run normalises with the running statistics."""

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from tests.conftest import tiny_cfg  # noqa: E402
from tests.small_train import make_trainer  # noqa: E402
from utils.training.distributed import Ranks  # noqa: E402
from utils.training.freezing import freeze, keep_statistics  # noqa: E402
from utils.training.trainer import TrainerOptions  # noqa: E402


def norms_of(model):
    return [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]


@pytest.fixture
def trainer(tmp_path):
    options = TrainerOptions(2, torch.device("cpu"), progress=False)
    return make_trainer(tmp_path, tiny_cfg(), options)


def statistics(trainer):
    return torch.cat([n.running_mean for n in norms_of(trainer.model)])


@pytest.mark.parametrize("share, kept", [(0.0, [False, False]), (0.5, [False, True])])
def test_statistics_stay_in_the_last_share_of_the_epochs(tmp_path, share, kept):
    options = TrainerOptions(2, torch.device("cpu"), progress=False)
    trainer = make_trainer(tmp_path, tiny_cfg(), options, hyp={"close_norm": share})
    trainer.accumulate = 1
    for epoch, stays in enumerate(kept):
        before, weights = statistics(trainer), norms_of(trainer.model)[0].weight.detach().clone()
        trainer.train_epoch(epoch)
        assert torch.equal(statistics(trainer), before) == stays
        assert not torch.equal(norms_of(trainer.model)[0].weight, weights)  # it learns all the same
    assert trainer.model.training


def test_a_run_that_goes_on_in_that_share_keeps_them_too(tmp_path):
    options = TrainerOptions(2, torch.device("cpu"), progress=False)
    trainer = make_trainer(tmp_path, tiny_cfg(), options, hyp={"close_norm": 0.5})
    before = statistics(trainer)
    trainer.train_epoch(1)
    assert torch.equal(statistics(trainer), before)


def test_graphs_of_the_model_go():
    model = nn.Sequential(nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1))
    model.forward = lambda x: "a graph recorded with the statistics of batches"
    assert keep_statistics(model, Ranks()) == [model[1]]
    assert isinstance(model(torch.zeros(1, 1, 2, 2)), torch.Tensor)


def test_frozen_layers_do_not_learn(trainer):
    frozen = freeze(trainer.model, 2)
    assert frozen == list(trainer.model.model)[:2]
    learning = [p.requires_grad for p in frozen[0].parameters()]
    assert not any(learning) and all(p.requires_grad for p in trainer.model.model[2].parameters())
