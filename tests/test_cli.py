import argparse
import dataclasses
import sys
import warnings
from pathlib import Path
from typing import Optional

import numpy as np
import pytest
from tqdm import tqdm

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


def test_a_bug_is_one_line_code_70_and_a_file(capsys):
    assert exit_code(lambda args: 1 / 0) == cli.UNEXPECTED == 70
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: unexpected ZeroDivisionError: division by zero; details in ")
    details = Path(line.rsplit(" ", 1)[1])
    text = details.read_text()
    assert "Traceback" in text and "1 / 0" in text and "Python 3." in text
    details.unlink()


def test_verbose_shows_the_traceback_of_a_bug(capsys):
    parser = argparse.ArgumentParser()
    parser.add_argument("--verbose", action="store_true")
    with pytest.raises(SystemExit):
        cli.run(lambda args: 1 / 0, parser, ["--verbose"])
    err = capsys.readouterr().err
    assert "Traceback" in err
    Path(err.split()[-1]).unlink()


def test_lack_of_memory_is_no_bug(capsys):
    def gpu(args):
        raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")

    for main in (lambda args: np.zeros(1 << 50), gpu):
        assert exit_code(main) == 1
        assert capsys.readouterr().err.startswith("error: the memory does not suffice; ")


def test_control_characters_are_shown_escaped(capsys):
    name = "a\x1b[2J\nb\u202ec\udce9.jpg"

    def main(args):
        print("one", name)
        print("two", name, file=sys.stderr)
        warnings.warn(name, InputWarning, stacklevel=1)
        raise InputError(name)

    assert exit_code(main) == 1
    out, err = capsys.readouterr()
    assert "\x1b" not in out + err and "\u202e" not in out + err
    assert out.splitlines()[-1] == "warning: a\\x1b[2J\\nb\\u202ec\\udce9.jpg"
    assert err.splitlines()[-1] == "error: a\\x1b[2J\\nb\\u202ec\\udce9.jpg"


def test_a_bar_still_draws(capsys):
    def main(args):
        for _ in tqdm(range(2), desc="outer", position=0):
            list(tqdm(range(2), desc="inner", position=1))

    cli.run(main, argparse.ArgumentParser(), [])
    err = capsys.readouterr().err
    assert "\r" in err and "\\x" not in err


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


def test_warnings_of_other_libraries_come_at_the_end_on_one_line(parser, capsys):
    def main(args):
        warnings.simplefilter("always")
        for _ in range(2):
            warnings.warn("their\nwords", stacklevel=1)
        print("working")

    cli.run(main, parser, [])
    assert capsys.readouterr() == ("working\n", "warning: UserWarning: their words\n")


def test_an_error_stands_alone(parser, capsys):
    def main(args):
        np.float32(1) / np.float32(0)
        warnings.warn("theirs", stacklevel=1)
        raise InputError("x.pt: no such file")

    with pytest.raises(SystemExit):
        cli.run(main, parser, [])
    assert capsys.readouterr() == ("", "error: x.pt: no such file\n")


def test_a_config_of_flags(parser):
    @dataclasses.dataclass(frozen=True)
    class Config:
        img_size: int
        fit: bool = True
        more: Optional[str] = None

    args = parser.parse_args(["--img", "5", "--no-fit"])
    assert cli.config_of(Config, args, more="x") == Config(5, fit=False, more="x")


@pytest.mark.parametrize(
    "typed, hint",
    [(["--conf-tres", "1"], "; did you mean --conf-thres?"),
     (["--conf_thres=1"], "; did you mean --conf-thres?"),
     (["--quux"], ""), (["x"], "")],
)  # fmt: skip
def test_a_misspelt_flag_gets_a_suggestion(capsys, typed, hint):
    parser = argparse.ArgumentParser()
    parser.add_argument("--conf-thres", type=float)
    with pytest.raises(SystemExit) as leave:
        cli.run(lambda args: None, parser, typed)
    expected = "error: unrecognized arguments: %s%s (--help shows all flags)\n"
    assert leave.value.code == 1 and capsys.readouterr().err == expected % (" ".join(typed), hint)
