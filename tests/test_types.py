"""No `Any` where a type exists: in public signatures and in the fields of public classes.

Values of a mapping with names as keys may be anything: the content of a JSON or yaml, metadata,
keyword arguments.
"""

import ast

import pytest

from tests.conftest import ROOT

FILES = sorted(p for f in ("escalator", "models", "utils") for p in (ROOT / f).rglob("*.py"))
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


def public(body, prefix=""):
    """(name, node) of what others may use, and of __init__, __call__ and so on."""
    for node in body:
        if not isinstance(node, (ast.ClassDef, ast.FunctionDef)):
            continue
        if not node.name.startswith("_") or (prefix and node.name.startswith("__")):
            yield prefix + node.name, node
            if isinstance(node, ast.ClassDef):
                yield from public(node.body, node.name + ".")


def found_in(path):
    """`file name` of each function and class with an `Any` that is not a value of a mapping."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    name = path.relative_to(ROOT).as_posix()
    return [
        "%s %s" % (name, title)
        for title, node in public(tree.body)
        if any(map(is_free, annotations(node)))
    ]


def allowance(found):
    """The entry of ALLOWED that covers `file name`, or `file Class.method`."""
    file, title = found.split(" ")
    entries = (file, found, "%s %s" % (file, title.split(".")[0]))
    return next((entry for entry in entries if entry in ALLOWED), None)


def test_public_types_are_told():
    found = [item for path in FILES for item in found_in(path)]
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
