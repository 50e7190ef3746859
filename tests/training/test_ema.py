import math

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from utils.training.ema import Ema  # noqa: E402


def test_average():
    model = nn.Sequential(nn.Conv2d(1, 1, 1, bias=False), nn.BatchNorm2d(1))
    ema = Ema(model, decay=0.9, ramp=5)
    assert not ema.model.training and not any(p.requires_grad for p in ema.model.parameters())
    wanted = model[0].weight.item()
    for i in range(1, 20):
        with torch.no_grad():
            model[0].weight.fill_(float(i))
            model[1].running_mean.fill_(float(i))
            model[1].num_batches_tracked.fill_(i)
        ema.update(model)
        keep = 0.9 * (1 - math.exp(-i / 5))
        wanted = keep * wanted + (1 - keep) * i
        assert float(ema.model[0].weight) == pytest.approx(wanted, rel=1e-5)
    assert int(ema.model[1].num_batches_tracked) == 19 and ema.updates == 19
    assert 10 < float(ema.model[1].running_mean) < 19
