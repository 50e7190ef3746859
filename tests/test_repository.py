"""Promises about the repository as a whole."""

import ast
import functools
import re
import subprocess
import sys

import pytest

from tests.conftest import ROOT

FOLDERS = ("benchmarks", "deploy", "escalator", "models", "tests", "utils")
SOURCES = sorted([*ROOT.glob("*.py"), *(p for f in FOLDERS for p in (ROOT / f).rglob("*.py"))])
# of train.py and export_INT8.py --distill alone, which need torch anyway
TRAINING = ("ema.py", "loss.py", "trainer.py", "distill.py", "torch_graph.py", "head_loss.py")
SHARED_MODULES = [p for p in SOURCES if ROOT / "utils" in p.parents and p.name not in TRAINING]
LAZY = {"torch", "torchvision", "onnxruntime", "onnx", "tensorrt", "pycuda"}
LAZY |= {"tensorrt_rtx"}
LAZY |= {"tqdm", "yaml", "PIL", "matplotlib", "pycocotools"}


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_parses_as_python_38(path):
    ast.parse(path.read_text(encoding="utf-8"), feature_version=(3, 8))


@pytest.mark.parametrize("path", SHARED_MODULES, ids=lambda p: p.name)
def test_heavy_packages_are_imported_where_used(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in tree.body:
        names = []
        if isinstance(node, ast.Import):
            names = [a.name for a in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        for name in names:
            assert name.split(".")[0] not in LAZY, "%s imports %s" % (path.name, name)


@functools.lru_cache(maxsize=None)
def script_flags(script):
    """Flags that a script's source, and what it takes its flags from, names."""
    source = (ROOT / script).read_text(encoding="utf-8")
    if script.startswith("models/export_"):
        source += (ROOT / "utils" / "export" / "flags.py").read_text(encoding="utf-8")
    return set(re.findall(r'"(--[\w-]+)"', source))


SHELL_SCRIPTS = sorted((ROOT / "data" / "scripts").glob("*.sh"))


@pytest.mark.parametrize("path", SHELL_SCRIPTS, ids=lambda p: p.name)
def test_shell_scripts_use_flags_that_exist(path):
    """Each parses, and the commands in it are understood by the scripts that are there."""
    assert subprocess.run(["bash", "-n", str(path)]).returncode == 0
    text = path.read_text(encoding="utf-8").replace("\\\n", " ")
    assert "set -euo pipefail" in text
    commands = re.findall(r"\$PYTHON (\S+\.py)(.*)", text)
    assert commands
    for script, words in commands:
        if not (ROOT / script).is_file():  # a later issue's
            continue
        flags = script_flags(script)
        for flag in re.findall(r"--[\w-]+", words):
            assert flag in flags, "%s: %s has no %s" % (path.name, script, flag)


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_progress_bars_are_for_terminals(path):
    """Each says when it is hidden: `disable=None` hides it in a log."""
    if "tests" in path.parts:
        return
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("tqdm", "trange"):
            assert "disable" in {k.arg for k in node.keywords}, "line %d" % node.lineno


SCRIPTS = [p for p in SOURCES if p.parent.name in (ROOT.name, "models", "escalator", "benchmarks")]


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda p: str(p.relative_to(ROOT)))
def test_examples_in_help_keep_their_lines(path):
    r"""In a docstring `\` and the end of the line vanish: `\\` shows one and keeps the line."""
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    assert not re.search(r"\S {4,}-", text)
    assert all(len(line) <= 100 for line in text.splitlines())


def test_pip_install_says_what_to_do_instead():
    done = subprocess.run(
        [sys.executable, "setup.py", "--version"], cwd=str(ROOT), capture_output=True, text=True
    )
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1
    assert "pip install -r requirements.txt" in done.stderr
