"""Scripts that hang somewhere and are asked to stop."""

import http.server
import os
import signal
import subprocess
import sys
import threading
import time

import cv2
import pytest

from tests.conftest import ROOT, make_pose_onnx, pose_row
from utils import stopping

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
# what TensorRT's binding does with an exception of a logger
SWALLOWING = """    with files.atomic_path(sys.argv[1]) as tmp, stopping.at_once():
        tmp.write_text('half')
        print('go', flush=True)
        while True:
            try: time.sleep(60)
            except KeyboardInterrupt: print('Exception caught in log()', file=sys.stderr)
"""
TAIL = """
parser = argparse.ArgumentParser('stuck.py')
parser.add_argument('file', nargs='?')
cli.run(main, parser)
"""


def stop(command, signals, ready):
    """(exit code, stderr, seconds from the last signal to the end).

    Args: ready: waits until it is time for the signals, given the process.
    """
    # where the tests run in the background of a shell, SIGINT is ignored, by what they start, too
    heard = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    command = [sys.executable, *map(str, command)]
    with subprocess.Popen(command, **pipes, **heard) as process:
        ready(process)
        for number in signals:
            process.send_signal(number)
            time.sleep(0.2)
        started = time.monotonic()
        try:
            _, stderr = process.communicate(timeout=120)
        finally:
            process.kill()
        return process.returncode, stderr, time.monotonic() - started


def stop_stuck(body, signals, *args):
    def ready(process):
        assert process.stdout.readline() == "go\n"

    return stop(["-c", HEAD + body + TAIL, *args], signals, ready)


@pytest.mark.parametrize("signals", [[signal.SIGTERM], [signal.SIGINT]])
def test_a_plain_script_stops_at_once(signals):
    body = "    print('go', flush=True)\n    time.sleep(60)\n"
    code, stderr, spent = stop_stuck(body, signals)
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
    code, stderr, spent = stop_stuck(body, signals)
    assert (code, stderr) == (130, "interrupted\n") and spent < 50


@pytest.mark.parametrize("signals", [[signal.SIGTERM], [signal.SIGINT, signal.SIGINT]])
def test_a_clean_up_that_hangs_leaves_no_temporary_file(tmp_path, signals):
    code, stderr, spent = stop_stuck(TEMPORARY, signals, tmp_path / "a.txt")
    assert (code, stderr) == (130, "interrupted\n") and spent < 50
    assert os.listdir(str(tmp_path)) == []


@pytest.mark.parametrize("signals", [[signal.SIGTERM], [signal.SIGINT]])
def test_a_library_that_swallows_the_interruption_is_not_asked(tmp_path, signals):
    code, stderr, spent = stop_stuck(SWALLOWING, signals, tmp_path / "a.txt")
    assert (code, stderr) == (130, "interrupted\n") and spent < 50
    assert os.listdir(str(tmp_path)) == []


IMPORT = """    print('go', flush=True)
    try: time.sleep(60)
    except KeyboardInterrupt as e: raise ImportError('initialization failed') from e
"""


def test_what_a_library_makes_of_a_signal_is_no_error():
    code, stderr, _ = stop_stuck(IMPORT, [signal.SIGTERM])
    assert (code, stderr) == (130, "interrupted\n")


def test_ctrl_c_while_modules_load_is_one_line(monkeypatch, capsys):
    usual = []
    monkeypatch.setattr(sys, "excepthook", lambda *error: usual.append(error[1]))
    monkeypatch.setattr(sys.modules["__main__"], "__file__", str(ROOT / "train.py"), raising=False)
    stopping.one_line_while_loading()
    sys.excepthook(KeyboardInterrupt, KeyboardInterrupt(), None)
    made = ImportError("initialization failed")
    made.__cause__ = KeyboardInterrupt()
    sys.excepthook(ImportError, made, None)
    assert capsys.readouterr().err == "interrupted\n" * 2 and not usual
    sys.excepthook(ImportError, other := ImportError("none"), None)
    assert usual == [other]
    hook = sys.excepthook
    monkeypatch.setattr(sys.modules["__main__"], "__file__", "/somewhere/else.py", raising=False)
    stopping.one_line_while_loading()
    assert sys.excepthook is hook


class Cameras(http.server.ThreadingHTTPServer):
    """Motion JPEG at /live, /silent (headers alone) and /stops (ends inside of the tenth frame)."""

    request_queue_size = 64
    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Camera)
        image = cv2.imread(str(ROOT / "tests" / "data" / "people" / "images" / "people00.jpg"))
        self.jpeg = cv2.imencode(".jpg", cv2.resize(image, (96, 64)))[1].tobytes()
        self.silent = threading.Semaphore(0)  # one for each stream from which no more will come
        self.over = threading.Event()


class _Camera(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
        self.end_headers()
        jpeg = self.server.jpeg
        head = b"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % len(jpeg)
        count = {"live": 1 << 30, "stops": 9, "silent": 0}[self.path.split("/")[1]]
        try:
            for _ in range(count):
                self.wfile.write(head + jpeg + b"\r\n")
                if self.server.over.wait(0.05):
                    return
            self.wfile.write((head + jpeg)[: len(head) + 100 if count else 0])
            self.server.silent.release()
            self.server.over.wait()
        except OSError:
            pass  # detect has left

    def log_message(self, *args):
        pass


@pytest.fixture
def cameras():
    server = Cameras()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.over.set()
    server.shutdown()
    server.server_close()


TERM, INTERRUPT = signal.SIGTERM, signal.SIGINT


@pytest.mark.parametrize(
    ("kinds", "signals"),
    [
        (["live", "silent", "stops"] * 10, [TERM]),  # 30 streams
        (["live", "silent", "stops"] * 10, [INTERRUPT, INTERRUPT]),
        (["stops"], [INTERRUPT]),
        (["silent"], [TERM]),
    ],
)
def test_streams_that_stall_end_when_asked(cameras, tmp_path, kinds, signals):
    model = make_pose_onnx(tmp_path / "pose.onnx", pose_row(32, 32, 20, 40)[None])
    address = "http://127.0.0.1:%d/%%s/%%d\n" % cameras.server_address[1]
    streams = tmp_path / "cameras.streams"
    streams.write_text("".join(address % (kind, i) for i, kind in enumerate(kinds)))
    out = tmp_path / "out" / "exp"
    expected = len(kinds) - kinds.count("silent")  # videos

    def ready(process):
        for _ in range(len(kinds) - kinds.count("live")):
            assert cameras.silent.acquire(timeout=120)
        deadline = time.monotonic() + 120
        while len(list(out.glob(".tmp*.mp4"))) < expected and time.monotonic() < deadline:
            time.sleep(0.05)
        assert process.poll() is None

    command = [ROOT / "detect_multi_backend.py", "--weights", model, "--source", streams,
               "--device", "cpu", "--project", tmp_path / "out", "--codec", "mp4v"]  # fmt: skip
    code, stderr, spent = stop(command, signals, ready)
    assert (code, stderr) == (130, "interrupted\n") and spent < 50
    assert not list((tmp_path / "out").rglob(".tmp*"))
    videos = list(out.glob("*.mp4"))
    assert len(videos) == expected
    assert all(cv2.VideoCapture(str(video)).read()[0] for video in videos)


@pytest.mark.parametrize("error", ["RuntimeError", "errors.InputError"])
def test_a_worker_that_the_same_signal_ended_is_no_fault(tmp_path, error):
    """A signal to the whole group of processes may end a worker first; main sees its death."""
    code = (
        """    import os, signal
    from utils import errors
    late = %s('DataLoader worker (pid 1) is killed by signal: Terminated.')
    if isinstance(late, RuntimeError):  # while main waits for a signal after the error
        real, wait = time.sleep, lambda s: os.kill(os.getpid(), signal.SIGTERM)
        time.sleep = lambda s: wait(s) if s == 0.2 else real(s)
    else:
        try: os.kill(os.getpid(), signal.SIGTERM); time.sleep(1)
        except KeyboardInterrupt: pass
    raise late
"""
        % error
    )
    script = tmp_path / "worker.py"
    script.write_text(HEAD + code + TAIL)
    done = subprocess.run([sys.executable, script], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (130, "interrupted\n")
