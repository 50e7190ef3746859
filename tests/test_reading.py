import os
import socket

import pytest

from utils import reading
from utils.errors import InputError
from utils.reading import check_file, is_integer, is_number, read_json, read_text, read_yaml, shown

LAUGHS = "a0: &a0 [1, 1]\n" + "".join(
    "a%d: &a%d [%s]\n" % (i, i, ", ".join(["*a%d" % (i - 1)] * 9)) for i in range(1, 30)
)
MERGES = "a0: &a0 {k: 1}\n" + "".join(
    "a%d: &a%d\n  <<: [%s]\n" % (i, i, ", ".join(["*a%d" % (i - 1)] * 9)) for i in range(1, 30)
)


def write(tmp_path, content):
    path = tmp_path / "x"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def test_only_regular_files_are_opened(tmp_path, monkeypatch):
    os.mkfifo(str(tmp_path / "fifo"))
    with socket.socket(socket.AF_UNIX) as server:
        monkeypatch.chdir(tmp_path)  # the name of a socket has to be short
        server.bind("socket")
    for name in ("/dev/zero", tmp_path / "fifo", tmp_path / "socket"):
        with pytest.raises(InputError, match="a pipe, socket or device, expected a regular file"):
            read_text(name, "list")
    with pytest.raises(InputError, match="is a folder"):
        check_file(tmp_path, "list")
    with pytest.raises(InputError, match="no such file"):
        check_file(tmp_path / "nothing", "list")
    with pytest.raises(InputError, match="no name of a file"):
        check_file("a\0b", "list")
    monkeypatch.setitem(reading.LIMITS, "list", 3)
    with pytest.raises(InputError, match="more than"):
        check_file(write(tmp_path, "four"), "list")


def test_sparse_files_are_not_read(tmp_path):
    path = tmp_path / "huge.json"
    with path.open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(InputError, match="huge.json: 1.1e.06 MB, more than"):
        read_json(path, "COCO JSON")


def test_text_is_utf8(tmp_path):
    assert read_text(write(tmp_path, b"\xef\xbb\xbfa\r\nb\rc"), "list") == "a\nb\nc"
    with pytest.raises(InputError, match="not a text file"):
        read_text(write(tmp_path, b"\xff\xfe"), "list")


@pytest.mark.parametrize("content", ["", "{", "[" * 100000, b"\xff", '{"a": 01}', "1" * 5000])
def test_what_is_no_json(tmp_path, content):
    try:
        assert read_json(write(tmp_path, content), "annotation") == int("1" * 4000 + "1" * 1000)
    except (InputError, ValueError) as e:
        assert "x: not JSON" in str(e) or "Exceeds the limit" in str(e)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (LAUGHS, "more than"),
        (MERGES, "more than"),
        ("a: &a [*a]", "alias of what it is in"),
        ("[" * 40 + "]" * 40, ""),
        ("[" * 60 + "]" * 60, "deep"),
        ("[" * 50000, "deep"),
        ("a: 1\na: 2", "the key a is there twice"),
        ("a: 2001-99-99", "month must be"),
        ("? [1]\n: 2", "unhashable"),
        ("a: !!python/object:os.system 1", "could not determine a constructor"),
        ("a: \x07", "special characters"),
        (b"\xff\xff", "not YAML"),
        ("a: *b", "undefined alias"),
        ("a: !!int ''", "not YAML"),
        ("a\n---\nb", "another document"),
        ("0x: &a\n  - *a", "deep"),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_what_is_no_plain_yaml(tmp_path, content, words):
    if not words:
        assert read_yaml(write(tmp_path, content)) is not None
        return
    with pytest.raises(InputError, match=words):
        read_yaml(write(tmp_path, content))


def test_yaml_as_people_write_it(tmp_path):
    text = "a: &x {k: 1, <<: {l: 2}}\nb: *x\nc: [1, 2.5, yes, null, 'd']\n"
    found = read_yaml(write(tmp_path, text))
    assert found == {"a": {"k": 1, "l": 2}, "b": {"k": 1, "l": 2}, "c": [1, 2.5, True, None, "d"]}
    assert read_yaml(write(tmp_path, "")) is None


def test_numbers():
    assert is_number(3) and is_number(2.5, 0, 3) and is_integer(3, 0, 3)
    for bad in (True, "3", None, float("nan"), float("inf"), 10**400, [3]):
        assert not is_number(bad) and not is_integer(bad, 0, 9)
    assert not is_number(4, 0, 3) and not is_integer(3.0, 0, 9)


def test_shown_stays_short():
    bomb = [1]
    for _ in range(100):
        bomb = [bomb, bomb]
    assert shown([1, 2.5, "x", None]) == "[1, 2.5, x, None]"
    assert shown(bomb) == "list of 2" and len(shown("x" * 1000)) == 60
    assert shown(10**5000) == "an integer of 16610 bits" and shown(True) == "True"
