"""Scripts that hang somewhere and are asked to stop."""

import os
import signal
import subprocess
import sys
import time

import pytest

from tests.conftest import ROOT

HEAD = """
import argparse, ctypes, sys, threading, time
sys.path.insert(0, %r)
from utils import cli, files, stopping
stopping.GRACE_S = 0.5
def main(args):
""" % str(ROOT)
# a deadlock in C: no Python handler runs
STUCK = """    mutex = ctypes.create_string_buffer(64)
    print('go', flush=True)
    for _ in range(2):
        ctypes.CDLL(None).pthread_mutex_lock(mutex)
"""
THREAD = """    threading.Thread(target=time.sleep, args=(60,)).start()
    print('go', flush=True)
    time.sleep(60)
"""
TEMPORARY = """    with files.atomic_path(sys.argv[1]) as tmp:
        tmp.write_text('half')
        print('go', flush=True)
        while True:
            try: time.sleep(60)
            except KeyboardInterrupt: pass
"""
TAIL = """
parser = argparse.ArgumentParser('stuck.py')
parser.add_argument('file', nargs='?')
cli.run(main, parser)
"""


def stop(body, signals, *args):
    """(exit code, stderr, seconds from the last signal to the end)."""
    # where the tests run in the background of a shell, SIGINT is ignored, by what they start, too
    heard = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)}
    command = [sys.executable, "-c", HEAD + body + TAIL, *map(str, args)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **pipes, **heard) as process:
        assert process.stdout.readline() == "go\n"
        for number in signals:
            process.send_signal(number)
            time.sleep(0.2)
        started = time.monotonic()
        try:
            _, stderr = process.communicate(timeout=120)
        finally:
            process.kill()
        return process.returncode, stderr, time.monotonic() - started


@pytest.mark.parametrize("signals", [[signal.SIGTERM], [signal.SIGINT]])
def test_a_plain_script_stops_at_once(signals):
    body = "    print('go', flush=True)\n    time.sleep(60)\n"
    code, stderr, spent = stop(body, signals)
    assert (code, stderr) == (130, "interrupted\n") and spent < 50


@pytest.mark.parametrize(
    ("body", "signals"),
    [
        (STUCK, [signal.SIGTERM]),
        (STUCK, [signal.SIGINT, signal.SIGINT]),
        (THREAD, [signal.SIGINT]),
        (THREAD, [signal.SIGTERM]),
        (THREAD, [signal.SIGINT, signal.SIGINT]),
    ],
)
def test_what_hangs_is_not_waited_for(body, signals):
    code, stderr, spent = stop(body, signals)
    assert (code, stderr) == (130, "interrupted\n") and spent < 50


@pytest.mark.parametrize("signals", [[signal.SIGTERM], [signal.SIGINT, signal.SIGINT]])
def test_a_clean_up_that_hangs_leaves_no_temporary_file(tmp_path, signals):
    code, stderr, spent = stop(TEMPORARY, signals, tmp_path / "a.txt")
    assert (code, stderr) == (130, "interrupted\n") and spent < 50
    assert os.listdir(str(tmp_path)) == []
