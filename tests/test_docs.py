"""The documents keep their promises: commands parse, imports exist, links lead somewhere."""

import argparse
import ast
import contextlib
import functools
import importlib
import importlib.util
import io
import re
import shlex
from typing import NamedTuple

import pytest

from tests.conftest import ROOT

PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), ROOT / "weights" / "README.md"])
README, CHINESE = ROOT / "README.md", ROOT / "docs" / "README.zh-CN.md"
NOT_RUN = re.compile(r"<!-- not run: \S.*-->\s*$")
LANGUAGES = {"", "bash", "python", "mermaid", "yaml", "json"}  # "": output of a command, a drawing
OURS = ("utils", "models", "escalator")


class Block(NamedTuple):
    """A fenced code block."""

    page: str
    line: int
    language: str
    text: str
    not_run: bool  # a comment above says why it is not run

    def __str__(self) -> str:
        return "%s:%d" % (self.page, self.line)


def name_of(path):
    return path.relative_to(ROOT).as_posix()


def blocks_of(path):
    """The fenced blocks of a page."""
    found, opened, before = [], None, ""
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        fence = re.match(r"(\s*)```(\w*)\s*$", line)
        if fence and opened is None:
            opened = (number, fence.group(2), len(fence.group(1)), bool(NOT_RUN.match(before)))
            lines = []
        elif fence:
            start, language, indent, not_run = opened
            text = "\n".join(item[indent:] for item in lines)
            found.append(Block(name_of(path), start, language, text, not_run))
            opened, before = None, ""
        elif opened is not None:
            lines.append(line)
        elif line.strip():
            before = line.strip()
    assert opened is None, "%s: a block without an end" % path
    return found


BLOCKS = [block for path in PAGES for block in blocks_of(path)]


def commands_of(block):
    """Words of each command of a bash block; a chain is several commands."""
    found = []
    for line in block.text.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        while "&&" in words:
            found.append(words[: words.index("&&")])
            words = words[words.index("&&") + 1 :]
        found.append(words)
    return [words for words in found if words]


def is_script(words):
    return words[0] == "python" and len(words) > 1 and words[1].endswith(".py")


@functools.lru_cache(maxsize=None)
def parser_of(script):
    """The parser of a script, None where it has no get_args_parser. Skips without PyTorch."""
    try:
        module = importlib.import_module(script[: -len(".py")].replace("/", "."))
    except ImportError as e:
        if e.name == "torch":
            pytest.skip("%s needs PyTorch" % script)
        raise
    return module.get_args_parser() if hasattr(module, "get_args_parser") else None


def check_command(script, words):
    path = ROOT / script
    assert path.is_file(), "no %s" % script
    parser = parser_of(script)
    if parser is None:  # some benchmarks make theirs in main
        flags = re.findall(r'"(--[\w-]+)"', path.read_text(encoding="utf-8"))
        unknown = [word for word in words if word.startswith("--") and word not in flags]
        assert not unknown, "%s has no %s" % (script, unknown)
        return
    errors = io.StringIO()
    with contextlib.redirect_stderr(errors):
        try:
            parser.parse_args(list(words))
        except SystemExit:
            pytest.fail("%s %s: %s" % (script, " ".join(words), errors.getvalue()[-300:]))


COMMANDS = sorted(
    {
        (words[1], tuple(words[2:]))
        for block in BLOCKS
        if block.language == "bash"
        for words in commands_of(block)
        if is_script(words)
    }
)


@pytest.mark.parametrize("script, words", COMMANDS, ids=lambda v: v if isinstance(v, str) else "")
def test_commands_are_understood(script, words):
    """Each script exists and its parser takes the flags, also where the block is not run."""
    check_command(script, words)


def test_inline_commands_are_understood():
    """`python script.py ...` within a sentence, unless it is abbreviated with `...`."""
    for path in PAGES:
        text = re.sub(r"```.*?```", "", path.read_text(encoding="utf-8"), flags=re.S)
        for command in re.findall(r"`(python [^`]+)`", text):
            words = shlex.split(command)
            if is_script(words) and "..." not in words and words[2:] not in ([], ["--help"]):
                check_command(words[1], words[2:])


@pytest.mark.parametrize("block", BLOCKS, ids=str)
def test_blocks_run_or_say_why_not(block):
    assert block.language in LANGUAGES, "write bash, python or nothing"
    if block.language != "bash" or block.not_run:
        return
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M)
    for words in commands_of(block):
        known = is_script(words) or (words[0] == "make" and words[1] in targets) or words[0] == "cp"
        assert known, "%s: %s: <!-- not run: why --> above the block" % (block, " ".join(words))


@pytest.mark.parametrize("block", [b for b in BLOCKS if b.language == "python"], ids=str)
def test_python_blocks_compile_and_import_what_exists(block):
    compile(block.text, str(block), "exec")
    for node in ast.walk(ast.parse(block.text)):
        if not isinstance(node, ast.ImportFrom) or node.module.split(".")[0] not in OURS:
            continue
        try:
            module = importlib.import_module(node.module)
            for alias in node.names:
                if not hasattr(module, alias.name):
                    importlib.import_module(node.module + "." + alias.name)
        except ImportError as e:
            if e.name == "torch":
                pytest.skip("%s needs PyTorch" % node.module)
            raise


# --- docs/cli.md --------------------------------------------------------------------------------


@functools.lru_cache(maxsize=None)
def generator():
    spec = importlib.util.spec_from_file_location("make_cli", str(ROOT / "docs" / "make_cli.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def cli_sections():
    """(text before the first script, {script: its section})."""
    text = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    head, *parts = re.split(r"^(?=## )", text, flags=re.M)
    return head, {part.split("\n")[0][3:]: part for part in parts}


def test_cli_page_has_every_script():
    head, sections = cli_sections()
    assert head == generator().HEAD, "run `make docs`"
    assert tuple(sections) == generator().SCRIPTS, "run `make docs`"
    with_parser = [
        name_of(path)
        for pattern in ("*.py", "models/*.py", "escalator/*.py")
        for path in ROOT.glob(pattern)
        if "def get_args_parser" in path.read_text(encoding="utf-8")
    ]
    assert set(with_parser) == set(sections), "docs/make_cli.py: SCRIPTS"


def test_a_switch_whose_help_says_default_is_on():
    parser = argparse.ArgumentParser()
    on = parser.add_argument("--pad", action="store_true", default=None, help="pad [default]")
    off = parser.add_argument("--crop", action="store_true", help="crop")
    assert generator().default_and_help(on) == ("on", "pad")
    assert generator().default_and_help(off) == ("off", "crop")


@pytest.mark.parametrize("script", generator().SCRIPTS)
def test_cli_page_is_fresh(script):
    parser_of(script)
    _, sections = cli_sections()
    assert sections[script].rstrip() == generator().section(script).rstrip(), "run `make docs`"


# --- links and names ----------------------------------------------------------------------------


def anchors_of(path):
    """The anchors that GitHub gives the headings of a page."""
    text = re.sub(r"^\s*```.*?^\s*```\s*$", "", path.read_text(encoding="utf-8"), flags=re.S | re.M)
    found = set()
    for heading in re.findall(r"^#+ (.*)$", text, re.M):
        heading = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).strip().lower()
        anchor = re.sub(r"[^\w\- ]", "", heading).replace(" ", "-")
        found.add(anchor)
    return found


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_links_lead_somewhere(path):
    text = re.sub(r"```.*?```", "", path.read_text(encoding="utf-8"), flags=re.S)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if link.startswith(("http://", "https://")):
            continue
        target, _, anchor = link.partition("#")
        other = (path.parent / target).resolve() if target else path
        assert other.exists(), "%s: no %s" % (path.name, link)
        assert not anchor or anchor in anchors_of(other), "%s: no heading %s" % (path.name, link)


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_files_that_are_named_exist(path):
    """`utils/pose/nms.py` and the like in backticks; data that users make is not checked."""
    text = path.read_text(encoding="utf-8")
    pattern = (
        r"`((?:utils|models|escalator|tests|docs|benchmarks|deploy)/[\w./*-]*|data/hyp[\w.*]*)`"
    )
    for name in re.findall(pattern, text):
        assert any(ROOT.glob(name.rstrip("/"))), "%s names %s" % (name_of(path), name)


# --- the two READMEs ----------------------------------------------------------------------------


def test_readme_is_short():
    assert len(README.read_text(encoding="utf-8").splitlines()) <= 180


def outline(path):
    """What both languages share: level of headings, blocks without comments, rows of tables."""
    text = path.read_text(encoding="utf-8")
    levels = re.findall(r"^(#+) ", re.sub(r"```.*?```", "", text, flags=re.S), re.M)
    blocks = [
        commands_of(block) if block.language == "bash" else re.sub(r"#.*", "", block.text)
        for block in blocks_of(path)
    ]
    return levels, blocks, len(re.findall(r"^\|", text, re.M))


def test_chinese_readme_says_the_same():
    for ours, theirs in zip(outline(README), outline(CHINESE)):
        assert theirs == ours
