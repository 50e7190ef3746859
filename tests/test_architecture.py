"""Who may import whom: docs/architecture.md as a test."""

import ast

import pytest

from tests.conftest import ROOT

GROUND = (
    "arrays cli errors files device outputs parallel pipeline reading stopping tables words"
).split()
# Each wing may import what stands before it; the wings of a line do not know each other.
FLOORS = (
    ("ground",), ("pose",), ("dataset", "graph", "trt", "tracking"), ("quantization", "models"),
    ("runtime",), ("evaluation", "export"), ("training",), ("scripts",),
)  # fmt: skip
RANK = {wing: rank for rank, wings in enumerate(FLOORS) for wing in wings}
SCRIPTS = ("export_onnx", "export_TRT", "export_INT8", "export_deploy", "import_onnx", "average",
           "public_weights")  # fmt: skip
FILES = sorted(
    p
    for folder in ("utils", "models", "escalator")
    for p in (ROOT / folder).rglob("*.py")
    if p.name != "__init__.py"
) + sorted(ROOT.glob("*.py"))


def module_of(path):
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


def wing_of(module):
    """`utils.pose.nms` -> pose; `utils.cli` -> ground; `models.export_TRT` -> scripts."""
    parts = module.split(".")
    if parts[0] == "utils":
        return "ground" if len(parts) < 3 else parts[1]
    return "models" if parts[0] == "models" and parts[1] not in SCRIPTS else "scripts"


def imports(path):
    """Our modules that a file imports, also inside functions; not those for type checkers."""
    found = set()
    tree = ast.parse(path.read_text(encoding="utf-8"))
    typing_only = {
        id(node)
        for test in ast.walk(tree)
        if isinstance(test, ast.If) and "TYPE_CHECKING" in ast.dump(test.test)
        for node in ast.walk(test)
    }
    for node in ast.walk(tree):
        if not isinstance(node, ast.ImportFrom) or id(node) in typing_only or not node.module:
            continue
        if node.module.split(".")[0] in ("utils", "models", "escalator"):
            for alias in node.names:
                deeper = ROOT.joinpath(*node.module.split("."), alias.name + ".py")
                found.add(node.module + "." + alias.name if deeper.is_file() else node.module)
    return found


GRAPH = {module_of(p): imports(p) for p in FILES}


@pytest.mark.parametrize("module", sorted(GRAPH))
def test_imports_only_what_stands_below(module):
    wing = wing_of(module)
    for other in GRAPH[module]:
        below = wing_of(other)
        up = (wing, other) == ("runtime", "models.checkpoint")
        assert below == wing or RANK[below] < RANK[wing] or up, "%s imports %s" % (module, other)
        assert not other.startswith("models.export_"), "%s imports a script" % module


def test_no_cycles():
    done, path = set(), []

    def visit(module):
        assert module not in path, " -> ".join(path[path.index(module) :] + [module])
        if module in done or module not in GRAPH:
            return
        path.append(module)
        for other in sorted(GRAPH[module]):
            visit(other)
        done.add(path.pop())

    for module in sorted(GRAPH):
        visit(module)


def test_ground_has_few_files():
    names = {p.stem for p in (ROOT / "utils").glob("*.py")} - {"__init__"}
    assert names <= set(GROUND)
