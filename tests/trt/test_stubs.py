"""utils/trt and the stand-in of 10.x against the published stubs of TensorRT 10.13.

Some signatures of the stubs are not valid Python, so type checkers refuse them: names are compared.
"""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

SHARED = [
    "Builder", "IBuilderConfig", "INetworkDefinition", "ILayer", "OnnxParser", "ParserError",
    "Runtime", "ICudaEngine", "IExecutionContext", "IOptimizationProfile", "BuilderFlag",
    "NetworkDefinitionCreationFlag", "TensorIOMode", "MemoryPoolType", "ITimingCache", "ILogger",
]  # fmt: skip
# variable of utils/trt -> the class it is of
VARIABLES = {
    "config": "IBuilderConfig", "context": "IExecutionContext", "engine": "ICudaEngine",
    "builder": "Builder", "parser": "OnnxParser",
}  # fmt: skip


class Stubs:
    """Names of the module and of each class, with those of its bases."""

    def __init__(self, text):
        self.names, self.bases, self.top = {}, {}, set()
        text = re.sub(r"(?m)^( *def \w+)\(.*\).*?:( \.\.\.)?$", r"\1():\2", text)
        for node in ast.parse(text).body:
            self.top |= self._own(node)
            if isinstance(node, ast.ClassDef):
                self._read(node)

    @staticmethod
    def _own(node):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            return {node.name}
        targets = [node.target] if isinstance(node, ast.AnnAssign) else []
        targets += node.targets if isinstance(node, ast.Assign) else []
        return {t.id for t in targets if isinstance(t, ast.Name)}

    def _read(self, node):
        self.names[node.name] = set().union(*(self._own(child) for child in node.body))
        self.bases[node.name] = [b.id for b in node.bases if isinstance(b, ast.Name)]
        for child in node.body:
            if isinstance(child, ast.ClassDef):
                self._read(child)

    def of(self, name):
        if name not in self.names:
            return set()
        return self.names[name].union(*(self.of(base) for base in self.bases[name]))


@pytest.fixture(scope="module")
def stubs():
    path = Path(sys.prefix) / "stubs" / "tensorrt_bindings" / "tensorrt.pyi"  # see Makefile
    if not path.is_file():
        pytest.skip("tensorrt-stubs is not there: make test puts it into .venv/stubs")
    return Stubs(path.read_text(encoding="utf-8"))


def test_the_stubs_are_read(stubs):
    assert {"create_execution_context", "get_tensor_shape"} <= stubs.of("ICudaEngine")
    assert "no_such_name" not in stubs.of("ICudaEngine") and "Builder" in stubs.top


def test_what_is_used_exists(stubs):
    files = [p for p in sorted((ROOT / "utils" / "trt").glob("*.py")) if p.name != "memory.py"]
    code = [line for p in files for line in p.read_text(encoding="utf-8").split("\n")]
    source = "\n".join(line for line in code if ".py" not in line)
    used = set(re.findall(r"\bmodule\.([A-Za-z]\w+)", source))
    assert used - stubs.top == set()
    for variable, name in VARIABLES.items():
        used = set(re.findall(r"\b_?%s\.([a-z]\w+)" % variable, source))
        assert used - stubs.of(name) == set(), name
    assert len(set(re.findall(r"\bconfig\.(\w+)", source))) > 3  # the names are what they were


@pytest.mark.parametrize("name", SHARED)
def test_the_stand_in_of_10_has_no_name_of_its_own(stubs, name):
    """What it lacks is not used; what it has, TensorRT 10 has, too."""
    code = (
        "import sys; sys.path[:0] = %r; import tensorrt as t; c = getattr(t, %r, None)\n"
        "print(*(n for n in dir(c) if n[0] != '_' and n not in dir(int)) if c else ())"
        % ([str(ROOT / "tests/fakes/v10"), str(ROOT / "tests/fakes"), str(ROOT)], name)
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) - stubs.of(name) - {"name", "value"} == set()
