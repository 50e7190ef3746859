"""Are the stand-ins like what they stand for?

TensorRT 11 shares its Python API with tensorrt_rtx, which is a real library: every attribute of the
11.x stand-in must exist there, and what was removed in 11 must be absent in both. The older ones
differ from it by what NVIDIA's migration guide lists.
"""

import importlib
import inspect
import json
import re
import sys

import pytest

from tests.conftest import ROOT

FAKES = ROOT / "tests" / "fakes"
REMOVED = [
    ("BuilderFlag", "FP16"), ("BuilderFlag", "INT8"), ("BuilderFlag", "OBEY_PRECISION_CONSTRAINTS"),
    ("NetworkDefinitionCreationFlag", "EXPLICIT_BATCH"), ("IBuilderConfig", "int8_calibrator"),
    ("IBuilderConfig", "set_calibration_profile"), ("Builder", "platform_has_fast_fp16"),
    ("ILayer", "precision"), ("ILayer", "set_output_type"),
]  # fmt: skip
OURS = {"__init__", "__setattr__", "name", "value"}  # Python's


@pytest.fixture
def stand_in(monkeypatch):
    def load(version):
        for name in [n for n in sys.modules if n.split(".")[0] in ("tensorrt", "trt_fake")]:
            monkeypatch.delitem(sys.modules, name)
        monkeypatch.syspath_prepend(str(FAKES))
        monkeypatch.syspath_prepend(str(FAKES / version))
        importlib.invalidate_caches()
        return importlib.import_module("tensorrt")

    yield load
    for name in [n for n in sys.modules if n.split(".")[0] in ("tensorrt", "trt_fake")]:
        sys.modules.pop(name)


def public(kind):
    return {n for n in dir(kind) if not n.startswith("_")} - OURS - set(dir(int))


CLASSES = ["Builder", "IBuilderConfig", "INetworkDefinition", "ILayer", "OnnxParser", "Runtime",
           "ICudaEngine", "IExecutionContext", "IOptimizationProfile", "BuilderFlag", "ILogger",
           "NetworkDefinitionCreationFlag", "TensorIOMode", "MemoryPoolType"]  # fmt: skip


@pytest.mark.parametrize("name", CLASSES)
def test_version_11_has_only_what_the_real_one_has(stand_in, name):
    real = pytest.importorskip("tensorrt_rtx", reason="no tensorrt_rtx for this Python")
    fake = stand_in("v11")
    missing = public(getattr(fake, name)) - public(getattr(real, name))
    assert not missing, missing


def test_what_version_11_removed(stand_in):
    real = pytest.importorskip("tensorrt_rtx", reason="no tensorrt_rtx for this Python")
    fake = stand_in("v11")
    for kind, name in REMOVED:
        assert not hasattr(getattr(real, kind), name), (kind, name)
        assert not hasattr(getattr(fake, kind), name), (kind, name)
    for name in ("IInt8MinMaxCalibrator", "IInt8EntropyCalibrator2"):
        assert not hasattr(real, name) and not hasattr(fake, name)


RECORD = json.loads((ROOT / "tests/data/tensorrt-8.5.3.1.json").read_text(encoding="utf-8"))


def test_version_8_5_is_the_real_one(stand_in):
    """Classes, members and parameters of the stand-in against those of the real 8.5.3.1."""
    fake = stand_in("v85")
    assert RECORD["version"].startswith("8.5.") and fake.__version__.startswith("8.5.")
    names = [n for n in vars(fake) if not n.startswith("_") and n != "populate"]
    assert len(names) > 20
    for name in names:
        value = getattr(fake, name)
        if name in RECORD["enums"]:
            members = {m.name for m in value}
            assert members <= set(RECORD["enums"][name]), name
        elif inspect.isclass(value):
            real = RECORD["classes"][name]
            assert public(value) - ADDED <= set(real), (name, public(value) - set(real))
            for member in public(value) - ADDED:
                method = inspect.getattr_static(value, member)
                if inspect.isfunction(method):
                    same_parameters(method, real[member])
        elif callable(value):
            assert name in RECORD["functions"]
        else:
            assert name in ("float32", "float16")


ADDED = {"header"}  # the stand-in's own


def same_parameters(method, text):
    """A method of the stand-in takes what `name(self: Kind, shape: Dims) -> bool` says."""
    if "(*args" in text or text in ("property", "value"):
        return
    inside = text[text.index("(") + 1 : text.rindex(")")]
    real = [p.split(":")[0].split("=")[0].strip() for p in re.split(r",(?![^\[]*\])", inside)]
    ours = [p.name for p in inspect.signature(method).parameters.values()]
    assert ours == real[: len(ours)], (text, ours)
    for more in re.split(r",(?![^\[]*\])", inside)[len(ours) :]:
        assert "=" in more, (text, ours)  # only optional ones may be missing


@pytest.mark.parametrize("version", ["v85", "v86", "v10"])
def test_older_ones_have_it(stand_in, version):
    fake = stand_in(version)
    for kind, name in REMOVED[:4]:
        assert hasattr(getattr(fake, kind), name)
    assert inspect.isclass(fake.IInt8EntropyCalibrator2)
    config = fake.Builder(fake.ILogger()).create_builder_config()
    assert hasattr(config, "builder_optimization_level") == (version != "v85")
    assert hasattr(fake.NetworkDefinitionCreationFlag, "STRONGLY_TYPED") == (version == "v10")


def test_what_the_toolkit_calls_exists_in_the_real_one():
    """Every attribute that utils/trt reads off the module, and that 11 has."""
    import re

    real = pytest.importorskip("tensorrt_rtx", reason="no tensorrt_rtx for this Python")
    files = sorted((ROOT / "utils" / "trt").glob("*.py"))
    source = "\n".join(p.read_text(encoding="utf-8") for p in files)
    used = set(re.findall(r"\bmodule\.(\w+)", source)) - {"__version__", "__name__"}
    assert len(used) > 10
    for name in used:
        assert hasattr(real, name), name
