"""The pins of requirements.txt install together, on each Python and machine that the README names.

Nothing is downloaded: tests/data/record_requirements.py has asked PyPI.
"""

import json
import re

import pytest

packaging = pytest.importorskip("packaging")
from packaging.requirements import Requirement  # noqa: E402
from packaging.specifiers import SpecifierSet  # noqa: E402
from packaging.utils import canonicalize_name, parse_wheel_filename  # noqa: E402

from tests.conftest import ROOT  # noqa: E402
from tests.data.record_requirements import ENVIRONMENTS, RECORD, pins_of  # noqa: E402

RECORDED = json.loads(RECORD.read_text(encoding="utf-8"))
DEV = ROOT / "requirements-dev.txt"


def versions(pins):
    """{name: version} of `name==version` requirements."""
    found = {}
    for pin in pins:
        match = re.match(r"==([\w.]+)$", str(pin.specifier))
        assert match, "%s: expected one version" % pin
        name = canonicalize_name(pin.name)
        assert name not in found, "%s is pinned twice" % name
        found[name] = match.group(1)
    return found


@pytest.mark.parametrize("python, machine", ENVIRONMENTS)
def test_pins_install_together(python, machine):
    pins, environment = pins_of(python, machine)
    wanted = versions(pins)
    recorded = {canonicalize_name(k): v for k, v in RECORDED[python + " " + machine].items()}
    assert set(recorded) == set(wanted), "run tests/data/record_requirements.py"
    for name, (wheel, requires_python, needs) in recorded.items():
        assert str(parse_wheel_filename(wheel)[1]) == wanted[name], (
            "%s: run tests/data/record_requirements.py" % name
        )
        assert python + ".9" in SpecifierSet(requires_python)
        for need in map(Requirement, needs):
            other = canonicalize_name(need.name)
            if other in wanted and (need.marker is None or need.marker.evaluate(environment)):
                assert wanted[other] in need.specifier, "%s %s needs %s, pinned is %s" % (
                    name, wanted[name], need, wanted[other]
                )  # fmt: skip


@pytest.mark.parametrize("python", sorted({python for python, _ in ENVIRONMENTS}))
def test_each_python_has_one_pin_of_each_package(python):
    everywhere = [set(versions(pins_of(p, m)[0])) for p, m in ENVIRONMENTS]
    assert all(names == everywhere[0] for names in everywhere)
    assert {"pytest", "pytest-xdist", "ruff"} <= set(
        versions(pins_of(python, "x86_64", path=DEV)[0])
    )


def test_a_contradiction_is_found(monkeypatch):
    """The pins of the first release: NumPy 1 beside an OpenCV that wants 2 from Python 3.9 on."""
    import tests.test_requirements as module

    old = [Requirement("numpy==1.24.4"), Requirement("opencv-python-headless==4.13.0.92")]
    environment = pins_of("3.9", "x86_64")[1]
    wheels = {r.name: RECORDED["3.9 x86_64"][r.name] for r in old}
    wheels["numpy"] = RECORDED["3.8 x86_64"]["numpy"]
    monkeypatch.setattr(module, "pins_of", lambda *_: (old, environment))
    monkeypatch.setattr(module, "RECORDED", {"3.9 x86_64": wheels})
    with pytest.raises(AssertionError, match="needs numpy"):
        test_pins_install_together("3.9", "x86_64")
