"""An interpreter of the PTX that the repository holds, for machines without a GPU.

NVIDIA, "Parallel Thread Execution ISA". One thread after the other; only the instructions that the
kernels of utils/trt/ use, on memory of the host.
"""

import ctypes
import re

import numpy as np

PARAM = re.compile(r"\.param \.(\w+) (\w+)")
MASK = {"u32": 0xFFFFFFFF, "u64": 0xFFFFFFFFFFFFFFFF, "b64": 0xFFFFFFFFFFFFFFFF}
CTYPES = {
    "u8": ctypes.c_uint8,
    "u32": ctypes.c_uint32,
    "f32": ctypes.c_float,
    "b16": ctypes.c_uint16,
}


def run(ptx, values, *, blocks, threads):
    """Run the only kernel of a module. Args: values: of its parameters."""
    head, body = ptx[: ptx.rindex("}")].split("{", 1)
    given = dict(zip((name for _, name in PARAM.findall(head)), values))
    lines = [line.strip().rstrip(";") for line in body.splitlines() if line.strip()]
    lines = [line for line in lines if not line.startswith((".reg", "//"))]
    labels = {line[:-1]: i for i, line in enumerate(lines) if line.endswith(":")}
    for block in range(blocks):
        for thread in range(threads):
            special = {"%ctaid.x": block, "%ntid.x": threads, "%tid.x": thread}
            _thread(lines, labels, {**given, **special})


def _thread(lines, labels, given):
    registers, at = dict(given), 0
    while True:
        line, at = lines[at], at + 1
        if line.endswith(":"):
            continue
        if line.startswith("@"):
            guard, line = line.split(" ", 1)
            if registers[guard.lstrip("@!")] == guard.startswith("@!"):
                continue
        if line == "ret":
            return
        name, *rest = line.split(" ", 1)
        operands = [o.strip() for o in re.split(r",(?![^\[]*\])", rest[0])] if rest else []
        if name == "bra":
            at = labels[operands[0]]
        else:
            _step(name.split("."), operands, registers)


def _value(text, registers):
    if text.startswith("0f"):
        return np.array([int(text[2:], 16)], np.uint32).view(np.float32)[0]
    return registers[text] if text in registers else int(text)


def _address(text, registers):
    base, _, offset = text.strip("[]").partition("+")
    return registers[base.strip()] + int(offset or 0)


def _step(name, operands, registers):
    kind, target = name[-1], operands[0]
    if name[0] == "st":
        place = CTYPES[kind].from_address(_address(target, registers))
        place.value = _value(operands[1], registers)
    elif name[:2] == ["ld", "param"]:
        registers[target] = registers[operands[1].strip("[]")]
    elif name[0] == "ld":
        found = CTYPES[kind].from_address(_address(operands[1], registers)).value
        registers[target] = np.float32(found) if kind == "f32" else found
    elif name[0] == "atom":
        place = CTYPES[kind].from_address(_address(operands[1], registers))
        registers[target] = place.value
        place.value += _value(operands[2], registers)
    else:
        values = [_value(o, registers) for o in operands[1:]]
        registers[target] = _compute(name, values)


def _compute(name, values):
    kind = name[-1]
    if name[0] in ("mov", "cvta"):
        return values[0]
    if name[0] == "setp":
        return {"ge": values[0] >= values[1], "gt": values[0] > values[1],
                "lt": values[0] < values[1]}[name[1]]  # fmt: skip
    if name[0] == "cvt":
        if name[2] == "f16":
            return int(np.array([values[0]]).astype(np.float16).view(np.uint16)[0])
        return np.float32(values[0])
    if name[:2] == ["mul", "rn"]:
        return np.float32(values[0]) * np.float32(values[1])
    wide = "wide" in name
    result = {
        "mul": lambda: values[0] * values[1],
        "mad": lambda: values[0] * values[1] + values[2],
        "add": lambda: values[0] + values[1],
        "sub": lambda: values[0] - values[1],
        "div": lambda: values[0] // values[1],
        "shl": lambda: values[0] << values[1],
    }[name[0]]()
    return result & (MASK["u64"] if wide else MASK[kind])
