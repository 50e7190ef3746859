import argparse
from pathlib import Path

import pytest

from utils import cli
from utils.errors import InputError


def exit_code(main):
    with pytest.raises(SystemExit) as leave:
        cli.run(main, argparse.ArgumentParser(), [])
    return leave.value.code


def test_input_error_is_one_line_and_code_1(capsys):
    def main(args):
        raise InputError("x.pt: no such file")

    assert exit_code(main) == 1
    assert capsys.readouterr().err == "error: x.pt: no such file\n"


def test_os_error_names_the_file(capsys):
    assert exit_code(lambda args: Path("/nowhere/x").read_text()) == 1
    assert capsys.readouterr().err == "error: /nowhere/x: No such file or directory\n"


def test_bugs_keep_their_traceback():
    with pytest.raises(ZeroDivisionError):
        cli.run(lambda args: 1 / 0, argparse.ArgumentParser(), [])


def test_success_returns():
    cli.run(lambda args: None, argparse.ArgumentParser(), [])


def test_wrong_command_line_is_one_line_and_code_1(capsys):
    parser = argparse.ArgumentParser()
    parser.add_argument("--number", type=int)
    with pytest.raises(SystemExit) as leave:
        cli.run(lambda args: None, parser, ["--number", "x"])
    assert leave.value.code == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: argument --number") and "--help" in line
