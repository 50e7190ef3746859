import gc
import os

import pytest

from utils import parallel
from utils.errors import InputError


def square(x):
    return x * x


def pid(x):
    return os.getpid()


def fail(x):
    if x == 777:
        raise InputError("777: no")
    return x


class Session:
    """Garbage in a cycle that must be freed by the process that made it, as ONNX Runtime's."""

    def __init__(self, record):
        self.record, self.me = record, self

    def __del__(self):
        with open(self.record, "a") as file:
            file.write("%d\n" % os.getpid())


def collect(x):
    gc.collect()
    return x


def test_a_process_frees_nothing_it_inherited(tmp_path):
    gc.collect()
    gc.disable()
    try:
        Session(str(tmp_path / "pids"))
        numbers = range(parallel.SERIAL_UP_TO + 1)
        assert list(parallel.parallel_map(collect, numbers, "x", workers=2)) == list(numbers)
    finally:
        gc.enable()
    assert (tmp_path / "pids").read_text() == "%d\n" % os.getpid()


@pytest.mark.parametrize("count", [0, 1, 5, parallel.SERIAL_UP_TO + 1, 1234])
@pytest.mark.parametrize("workers", [1, 2])
def test_as_map(count, workers):
    assert list(parallel.parallel_map(square, range(count), "x", workers=workers)) == [
        i * i for i in range(count)
    ]


def test_many_run_elsewhere_few_here():
    assert set(parallel.parallel_map(pid, range(10), "x")) == {os.getpid()}
    assert os.getpid() not in set(parallel.parallel_map(pid, range(2000), "x", workers=2))


def test_errors_arrive():
    with pytest.raises(InputError, match="777: no"):
        list(parallel.parallel_map(fail, range(5000), "x", workers=2))
