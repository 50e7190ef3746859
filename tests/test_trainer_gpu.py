"""CUDA graphs and the fused normalisation train as plain PyTorch does; skipped without a GPU."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")
if not torch.cuda.is_available():
    pytest.skip("no CUDA GPU", allow_module_level=True)

from models import common  # noqa: E402
from models.yolo import Model  # noqa: E402
from tests.conftest import ROOT  # noqa: E402
from utils.hyper_parameters import read_hyp  # noqa: E402
from utils.labels import Labels  # noqa: E402
from utils.train_batches import Spec, TrainBatches  # noqa: E402
from utils.train_set import TrainSet  # noqa: E402
from utils.trainer import Options, Trainer  # noqa: E402


def losses(tmp_path, graphs, freeze=0):
    """Loss of three epochs of a small network, FP32, and its weights."""
    import cv2

    torch.manual_seed(0)
    model = Model(str(ROOT / "models" / "hub" / "yolov5n6_kpts.yaml"), nc=1, nkpt=17)
    rng = np.random.default_rng(0)
    paths = []
    for i in range(8):
        path = tmp_path / ("%d.png" % i)
        path.write_bytes(
            cv2.imencode(".png", rng.integers(0, 255, (64, 64, 3), np.uint8))[1].tobytes()
        )
        paths.append(str(path))
    points = np.concatenate([rng.random((1, 17, 2)), np.full((1, 17, 1), 2.0)], 2)
    one = Labels(np.zeros(1, np.int64), np.array([[0.5, 0.5, 0.6, 0.8]]), points)
    train_set = TrainSet(paths, np.full((8, 2), 64), [one] * 8, np.ones(8), [])
    anchors = (model.head.anchors * model.head.stride.view(-1, 1, 1)).numpy().astype(float)
    spec = Spec((128, 128), 4, anchors, [8, 16, 32, 64], workers=2 * graphs, pin=True)
    hyp = read_hyp(ROOT / "data" / "hyp.scratch.yaml")
    batches = TrainBatches(train_set, hyp, spec, 3)
    options = Options(3, torch.device("cuda", 0), freeze=freeze, amp=False, graphs=graphs,
                      progress=False)  # fmt: skip
    trainer = Trainer(model, batches, hyp, options)
    found = [trainer.train_epoch(e).losses["loss"] for e in range(3)]
    return found, {k: v.cpu() for k, v in trainer.model.state_dict().items()}


@pytest.mark.parametrize("freeze", [0, 12])
def test_graphs_and_fused_norm_train_alike(tmp_path, monkeypatch, freeze):
    quick, ours = losses(tmp_path, True, freeze)
    monkeypatch.setattr(common, "usable", lambda *_: False)
    plain, theirs = losses(tmp_path, False, freeze)
    np.testing.assert_allclose(quick, plain, rtol=5e-3)
    for name, value in theirs.items():
        if name.endswith("num_batches_tracked"):
            assert int(ours[name]) == int(value), name
        if name.endswith("running_mean"):
            torch.testing.assert_close(ours[name], value, rtol=0.05, atol=0.05)
