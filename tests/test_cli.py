import argparse
import dataclasses
import warnings
from pathlib import Path
from typing import Optional

import pytest

from utils import cli
from utils.errors import InputError, InputWarning


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


@pytest.fixture
def parser():
    parser = argparse.ArgumentParser()
    parser.add_argument("--img-size", "--img", type=int, default=640)
    parser.add_argument("--no-fit", dest="fit", action="store_false")
    return parser


def test_parameters_become_flags(parser, capsys):
    def main(args):
        warnings.warn("`img_size` %d: odd" % args.img_size, InputWarning, stacklevel=1)
        raise InputError("`img_size` 0: expected more; leave `fit` out, or `opt_size` of another")

    with pytest.raises(SystemExit):
        cli.run(main, parser, ["--img", "3"])
    out, err = capsys.readouterr()
    assert out == "warning: --img-size 3: odd\n"
    assert (
        err == "error: --img-size 0: expected more; leave --no-fit out, or --opt-size of another\n"
    )


def test_warnings_of_other_libraries_stay_as_they_are(parser):
    with pytest.warns(UserWarning, match="theirs"):
        cli.run(lambda args: warnings.warn("theirs", stacklevel=1), parser, [])


def test_a_config_of_flags(parser):
    @dataclasses.dataclass(frozen=True)
    class Config:
        img_size: int
        fit: bool = True
        more: Optional[str] = None

    args = parser.parse_args(["--img", "5", "--no-fit"])
    assert cli.config_of(Config, args, more="x") == Config(5, fit=False, more="x")
