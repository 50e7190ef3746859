import sys
from pathlib import Path

import pytest

from utils.trt.memory import PycudaMemory


@pytest.fixture
def memory(monkeypatch):
    """GPU memory through the stand-in of pycuda."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "fakes"))
    for name in [n for n in sys.modules if n.split(".")[0] == "pycuda"]:
        monkeypatch.delitem(sys.modules, name)
    return PycudaMemory(0)
