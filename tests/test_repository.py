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
TRAINING = (
    "ema.py",
    "freezing.py",
    "loss.py",
    "trainer.py",
    "distill.py",
    "torch_graph.py",
    "head_loss.py",
)
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


NEEDED_LATER = ("utils.tracking", "utils.trt", "utils.quantization", "utils.graph", "models",
                "utils.runtime.torch_backend")  # fmt: skip


def test_detect_starts_with_what_it_needs():
    """The rest costs a part of the start each; benchmarks/startup.py measures it."""
    code = "import sys, detect_multi_backend; print('\\n'.join(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=str(ROOT), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    loaded = done.stdout.splitlines()
    assert "utils.runtime.detect" in loaded
    early = [m for m in loaded if any(m == n or m.startswith(n + ".") for n in NEEDED_LATER)]
    assert early == []


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


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_files_and_functions_are_short(path):
    """400 lines, or a reason after `One long file:`; 60 lines a function, but in tests."""
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text)
    reason = "One long file: " in (ast.get_docstring(tree) or "")
    assert reason == (text.count("\n") > 400)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and "tests" not in path.parts:
            assert node.end_lineno - node.lineno < 60, node.name


COMMAND = ("python", "torchrun", "docker", ".py")  # a line to type is written as it is typed


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_errors_name_parameters_not_flags(path):
    """`img_size`, which utils/cli.py turns into --img-size; benchmarks are command lines alone."""
    if path.relative_to(ROOT).parts[0] in ("benchmarks", "deploy", "tests", "setup.py"):
        return
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        warns = isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "warn"
        if not isinstance(node, ast.Raise) and not warns:
            continue
        for text in ast.walk(node):
            text = getattr(text, "value", None)
            if isinstance(text, str) and not any(word in text for word in COMMAND):
                assert not re.search(r"(?<![\w-])--[a-z]", text), "line %d" % node.lineno


# No `Any` where a type exists: in public signatures and in the fields of public classes. Values of
# a mapping with names as keys may be anything: JSON, yaml, metadata, keyword arguments.
TYPED = [p for p in SOURCES if p.relative_to(ROOT).parts[0] in ("escalator", "models", "utils")]
MAPPINGS = ("Dict", "Mapping")
PARSED = "what a file says; it is checked by who reads the format"
TENSORRT = "objects of TensorRT, which is imported where it is there and has no types"
ALLOWED = {  # file, with or without the name of a function or class -> reason
    "utils/reading.py read_json": PARSED,
    "utils/reading.py read_yaml": PARSED,
    "utils/pose/layout.py decode_text": PARSED,
    "utils/graph/analysis.py attribute": "attributes of an ONNX node are of many types",
    "utils/quantization/torch_graph.py FakeQuant": "ctx: PyTorch types less of it than there is",
    "utils/export/engine.py PreparedModel": TENSORRT,
    "utils/export/engine_int8.py": TENSORRT,
    "utils/trt/api.py": TENSORRT,
    "utils/trt/builder.py": TENSORRT,
    "utils/trt/calibrator.py": TENSORRT,
    "utils/trt/precision.py": TENSORRT,
}


def is_free(annotation):
    """Whether `Any` is in it, other than as the value of a mapping of names."""
    if isinstance(annotation, ast.Constant) and isinstance(annotation.value, str):
        annotation = ast.parse(annotation.value, mode="eval").body
    if isinstance(annotation, ast.Name):
        return annotation.id == "Any"
    if isinstance(annotation, ast.Subscript) and getattr(annotation.value, "id", "") in MAPPINGS:
        inside = annotation.slice
        key, value = getattr(inside, "value", inside).elts
        if getattr(key, "id", "") == "str" and getattr(value, "id", "") == "Any":
            return False
    return any(is_free(child) for child in ast.iter_child_nodes(annotation))


def annotations(node):
    """Those of the parameters and the result of a function, or of the public fields of a class."""
    if isinstance(node, ast.ClassDef):
        fields = [f for f in node.body if isinstance(f, ast.AnnAssign)]
        yield from (
            f.annotation for f in fields if not getattr(f.target, "id", "_").startswith("_")
        )
        return
    given = node.args
    for arg in [*given.posonlyargs, *given.args, *given.kwonlyargs, given.vararg]:
        if arg is not None and arg.annotation is not None:
            yield arg.annotation
    if node.returns is not None:
        yield node.returns


def public_names(body, prefix=""):
    """(name, node) of what others may use, and of __init__, __call__ and so on."""
    for node in body:
        if not isinstance(node, (ast.ClassDef, ast.FunctionDef)):
            continue
        if not node.name.startswith("_") or (prefix and node.name.startswith("__")):
            yield prefix + node.name, node
            if isinstance(node, ast.ClassDef):
                yield from public_names(node.body, node.name + ".")


def found_in(path):
    """`file name` of each function and class with an `Any` that is not a value of a mapping."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    name = path.relative_to(ROOT).as_posix()
    return [
        "%s %s" % (name, title)
        for title, node in public_names(tree.body)
        if any(map(is_free, annotations(node)))
    ]


def allowance(found):
    """The entry of ALLOWED that covers `file name`, or `file Class.method`."""
    file, title = found.split(" ")
    entries = (file, found, "%s %s" % (file, title.split(".")[0]))
    return next((entry for entry in entries if entry in ALLOWED), None)


def test_public_types_are_told():
    found = [item for path in TYPED for item in found_in(path)]
    assert [item for item in found if allowance(item) is None] == []
    assert {allowance(item) for item in found} == set(ALLOWED)  # none that nobody needs


@pytest.mark.parametrize(
    ("code", "free"),
    [
        ("Any", True), ("List[Any]", True), ("'Optional[Any]'", True), ("Dict[Any, str]", True),
        ("Dict[str, Any]", False), ("List[Dict[str, Any]]", False), ("Dict[str, List[Any]]", True),
        ("Callable[..., Any]", True), ("object", False), ("'torch.Tensor'", False),
    ],
)  # fmt: skip
def test_what_counts(code, free):
    assert is_free(ast.parse(code, mode="eval").body) == free
