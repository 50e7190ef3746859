import pytest

from tests.conftest import ROOT
from utils.training.hyper_parameters import read_hyp
from utils.training.schedule import Schedule

HYP = read_hyp(ROOT / "data" / "hyp.scratch.yaml")


@pytest.mark.parametrize("steps, epoch_steps", [(10, 1), (100, 10), (3000, 1000), (3, 3)])
def test_warm_up_is_at_most_a_tenth(steps, epoch_steps):
    schedule = Schedule(HYP, steps, epoch_steps)
    assert schedule.warmup <= steps / 10
    assert schedule(steps - 1).lr == pytest.approx(HYP.lr0 * HYP.lrf) or steps < 2


@pytest.mark.parametrize("linear", [False, True])
def test_shape(linear):
    schedule = Schedule(HYP, 1000, 10, linear=linear)
    rates = [schedule(i) for i in range(1000)]
    lr = [r.lr for r in rates]
    assert schedule.warmup == 30
    assert lr[0] < lr[10] < lr[29] and max(lr) <= HYP.lr0
    assert all(a >= b for a, b in zip(lr[30:], lr[31:]))
    assert lr[-1] == pytest.approx(HYP.lr0 * HYP.lrf)
    middle = HYP.lr0 * (1 + HYP.lrf) / 2
    assert lr[500] == pytest.approx(middle, rel=0.01)  # of a line and of a cosine
    assert lr[250] == pytest.approx(HYP.lr0 * (0.8 if linear else 0.883), rel=0.01)


def test_biases_and_momentum_warm_up():
    schedule = Schedule(HYP, 1000, 10)
    first, later = schedule(0), schedule(40)
    assert first.bias_lr > 0.09 and first.momentum < 0.81
    assert later.bias_lr == later.lr and later.momentum == HYP.momentum
    assert Schedule(HYP, 1000, 10, bias_warmup=False)(0).bias_lr < 0.001
