"""Record the public API of an installed TensorRT: python record_tensorrt_api.py OUT.json

Needs no GPU. `tests/data/tensorrt-8.5.3.1.json` was made with the wheel of PyPI for Python 3.10;
tests/test_fakes.py compares the stand-in of 8.5 with it.
"""

import inspect
import json
import sys


def record(module):
    """Classes with their members, enumerations, functions; a signature where pybind11 tells it."""
    found = {"version": module.__version__, "classes": {}, "enums": {}, "functions": {}}
    for name in sorted(n for n in dir(module) if not n.startswith("_")):
        value = getattr(module, name)
        if inspect.isclass(value) and hasattr(value, "__members__"):
            found["enums"][name] = sorted(value.__members__)
        elif inspect.isclass(value):
            found["classes"][name] = {
                member: signature(value, member)
                for member in sorted(dir(value))
                if not member.startswith("_")
            }
        elif callable(value):
            found["functions"][name] = first_line(value)
    return found


def first_line(value):
    lines = (getattr(value, "__doc__", None) or "").strip().splitlines()
    return lines[0] if lines else ""


def signature(kind, member):
    """`name(self, ...) -> type` of a method, `property`, or `value`."""
    if isinstance(inspect.getattr_static(kind, member, None), property):
        return "property"
    text = first_line(getattr(kind, member))
    return text.replace("tensorrt.tensorrt.", "") if text.startswith(member + "(") else "value"


if __name__ == "__main__":
    import tensorrt

    with open(sys.argv[1], "w", encoding="utf-8") as out:
        json.dump(record(tensorrt), out, indent=0, sort_keys=True)
        out.write("\n")
