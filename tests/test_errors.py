"""Warnings of the library, as somebody who uses it from Python sees them."""

import subprocess
import sys
import threading
import warnings

from tests.conftest import ROOT
from utils.errors import InputWarning, warn
from utils.pipeline import prefetch

PROGRAM = """\
import sys
sys.path.insert(0, %r)
from utils.dataset.data_yaml import read_data
read_data(%r)
"""


def test_a_warning_names_the_line_of_the_user(tmp_path):
    (tmp_path / "x.yaml").write_text("val: .\nnc: 1\nnames: [person]\nflip_indx: [0]\n")
    program = tmp_path / "mine.py"
    program.write_text(PROGRAM % (str(ROOT), str(tmp_path / "x.yaml")))
    done = subprocess.run([sys.executable, str(program)], capture_output=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    first, second = done.stderr.splitlines()
    assert first.startswith("%s:4: InputWarning: " % program) and "flip_indx" in first
    assert second.strip().startswith("read_data(")


def warned_at(call):
    """(file, line) that the only warning of a call names."""
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        call()
    (warning,) = found
    assert warning.category is InputWarning and str(warning.message) == "slow"
    return warning.filename, warning.lineno


def test_a_warning_of_a_thread_names_the_line_that_waits_for_it():
    def stream():
        warn("slow")
        yield 1

    def call():
        assert list(prefetch(stream())) == [1]

    assert warned_at(call) == (__file__, call.__code__.co_firstlineno + 1)

    def in_a_thread():
        thread = threading.Thread(target=call)
        thread.start()
        thread.join()

    file, _ = warned_at(in_a_thread)  # which thread waits for which, nobody knows
    assert file == __file__


def test_nothing_else_of_the_library_warns():
    for folder in ("escalator", "models", "utils"):
        for path in (ROOT / folder).rglob("*.py"):
            assert "warnings.warn(" not in path.read_text() or path.name == "errors.py", path
