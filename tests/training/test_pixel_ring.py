import pytest

torch = pytest.importorskip("torch")

from utils.training.pixel_ring import PixelRing  # noqa: E402


def test_slots_do_not_overlap_and_come_back():
    ring = PixelRing(3, 10)
    slots = [ring.take() for _ in range(3)]
    assert sorted(slots) == [0, 1, 2] and ring.take() is None
    for slot in slots:
        ring.view(slot, 10).fill_(slot + 1)
    assert [ring.view(slot, 10).tolist() for slot in slots] == [[s + 1] * 10 for s in slots]
    ring.give_back(1)
    assert ring.take() == 1
    with pytest.raises(ValueError, match="11 bytes in a slot of 10"):
        ring.view(0, 11)


def write(ring, slot):
    ring.view(slot, 4).copy_(torch.tensor([1, 2, 3, 4], dtype=torch.uint8))


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_another_process_writes_where_we_read(method):
    ring = PixelRing(2, 8)
    context = torch.multiprocessing.get_context(method)
    worker = context.Process(target=write, args=(ring, 1))
    worker.start()
    worker.join(60)
    assert ring.view(1, 4).tolist() == [1, 2, 3, 4]
    assert worker.exitcode == 0
