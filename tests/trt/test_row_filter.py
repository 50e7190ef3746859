import numpy as np
import pytest

from utils.trt.row_filter import FIRST_CAPACITY, RowFilter


def rows_of(memory, row_filter, raw, threshold):
    with memory.active():
        buffer = memory.allocate(raw.nbytes)
        memory.upload(buffer, raw)
        found = row_filter.start(buffer, raw.shape, threshold)
        memory.synchronize()
    return row_filter.rows(found)


@pytest.mark.parametrize("batch", [1, 3])
def test_rows_are_those_above_the_threshold_in_their_order(memory, batch):
    raw = np.random.default_rng(batch).random((batch, 200, 12)).astype(np.float32)
    raw[0, 3, 4] = np.nan
    raw[-1] = 0
    found = rows_of(memory, RowFilter(memory), raw, 0.6)
    assert len(found) == batch
    for rows, image in zip(found, raw):
        np.testing.assert_array_equal(rows, image[image[:, 4] > 0.6])


def test_nobody(memory):
    found = rows_of(memory, RowFilter(memory), np.zeros((2, 10, 6), np.float32), 0.25)
    assert [f.shape for f in found] == [(0, 6), (0, 6)]


def test_more_rows_than_there_is_room_for(memory):
    raw = np.ones((1, FIRST_CAPACITY + 10, 6), np.float32)
    row_filter = RowFilter(memory)
    assert rows_of(memory, row_filter, raw, 0.25) is None
    found = rows_of(memory, row_filter, raw, 0.25)
    assert len(found[0]) == FIRST_CAPACITY + 10


def test_a_driver_that_refuses_the_kernel(memory, monkeypatch):
    monkeypatch.setenv("FAKE_NO_PTX", "1")
    row_filter = RowFilter(memory)
    assert not row_filter.usable and "unsupported" in row_filter.refused
