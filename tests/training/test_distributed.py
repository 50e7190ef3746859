"""Which device a process takes, on a stand-in of two GPUs."""

import pytest

torch = pytest.importorskip("torch")

from utils.errors import InputError  # noqa: E402
from utils.training.distributed import Ranks, from_environment, own_device  # noqa: E402


@pytest.fixture
def two_gpus(monkeypatch):
    """The indices that became the current device."""
    chosen = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: chosen.append(device.index))
    return chosen


# of the second of two hosts, each with two processes
SECOND = [Ranks(rank=2, world=4, local=0, here=2), Ranks(rank=3, world=4, local=1, here=2)]


@pytest.mark.parametrize("text, indices", [("", [0, 1]), ("0,1", [0, 1]), ("1,0", [1, 0])])
def test_each_process_of_a_host_has_a_gpu(two_gpus, text, indices):
    assert [own_device(text, ranks).index for ranks in SECOND] == indices == two_gpus


def test_one_process_a_host(two_gpus):
    ranks = Ranks(rank=1, world=2, local=0, here=1)
    assert [own_device(text, ranks).index for text in ("", "0", "1")] == [0, 0, 1]


def test_alone(two_gpus):
    assert own_device("", Ranks()).index == 0 and own_device("1", Ranks()).index == 1
    assert own_device("cpu", Ranks()).type == own_device("cpu", SECOND[1]).type == "cpu"


@pytest.mark.parametrize(
    "text, ranks, words",
    [
        ("0,1", Ranks(0, 2, 0, 1), "2 GPUs, but 1 processes on this host"),  # one would be idle
        ("0", SECOND[1], "1 GPUs, but 2 processes on this host"),
        ("", Ranks(2, 3, 2, 3), "2 GPUs, but 3 processes on this host"),
    ],
)
def test_processes_and_gpus_that_do_not_fit(two_gpus, text, ranks, words):
    with pytest.raises(InputError, match=words):
        own_device(text, ranks)
    assert not two_gpus


def test_from_environment(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    assert from_environment() == Ranks(0, 1, 0, 1)
    for name, value in (("RANK", "3"), ("WORLD_SIZE", "4"), ("LOCAL_RANK", "1")):
        monkeypatch.setenv(name, value)
    assert from_environment() == Ranks(3, 4, 1, 4)  # without torchrun all are on this host
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert from_environment() == SECOND[1]
