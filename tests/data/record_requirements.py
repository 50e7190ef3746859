"""Record what the pins of requirements.txt need, for tests/test_requirements.py.

    python tests/data/record_requirements.py        # Python 3.11 or newer with pip; asks PyPI

For each Python and machine of ENVIRONMENTS pip looks for a wheel of each pin, without installing or
downloading it; requirements.json keeps its file name and the packages that it requires.
"""

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from urllib.parse import unquote

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]
PINS = ROOT / "requirements.txt"
RECORD = Path(__file__).with_name("requirements.json")
# machine, newest glibc that is there: of JetPack 5 (Ubuntu 20.04), JetPack 6 (22.04), a server
ENVIRONMENTS = {
    **{("3.%d" % minor, "x86_64"): 28 for minor in range(8, 14)},
    ("3.8", "aarch64"): 31,
    ("3.10", "aarch64"): 35,
}
GLIBC = (17, 24, 26, 27, 28, 31, 34, 35)


def pins_of(python, machine, *, path=PINS):
    """Requirements of a file that apply to a Python and a machine with Linux."""
    environment = {
        "python_version": python,
        "python_full_version": python + ".0",
        "platform_machine": machine,
        "sys_platform": "linux",
        "platform_system": "Linux",
        "os_name": "posix",
        "implementation_name": "cpython",
        "platform_python_implementation": "CPython",
        "extra": "",
    }
    lines = (line.split("#")[0].strip() for line in path.read_text(encoding="utf-8").splitlines())
    found = [Requirement(line) for line in lines if line]
    return [r for r in found if r.marker is None or r.marker.evaluate(environment)], environment


def ask_pip(python, machine, glibc):
    """{name: [wheel, requirements]} of each pin."""
    pins, _ = pins_of(python, machine)
    command = [sys.executable, "-m", "pip", "install", "-q", "--dry-run", "--no-deps"]
    command += ["--ignore-installed", "--only-binary=:all:", "--python-version", python]
    for number in GLIBC:
        if number <= glibc:
            command += ["--platform", "manylinux_2_%d_%s" % (number, machine)]
    command += ["--platform", "manylinux2014_" + machine]
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        command += ["--target", folder, "--report", str(report)]
        subprocess.run(command + ["%s%s" % (p.name, p.specifier) for p in pins], check=True)
        content = json.loads(report.read_text(encoding="utf-8"))
    found = {}
    for item in content["install"]:
        metadata = item["metadata"]
        needs = [r for r in metadata.get("requires_dist", []) if "extra ==" not in r]
        wheel = unquote(item["download_info"]["url"].rsplit("/", 1)[-1])
        wheel = re.sub(r"\+\w+", "", wheel)  # a build of PyTorch for the CPU or another CUDA
        found[metadata["name"]] = [wheel, metadata.get("requires_python", ""), needs]
    return found


def main():
    record = {}
    for (python, machine), glibc in ENVIRONMENTS.items():
        print(python, machine)
        record["%s %s" % (python, machine)] = ask_pip(python, machine, glibc)
    RECORD.write_text(json.dumps(record, indent=1, sort_keys=True) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
