"""Frames per second of detect on a GPU, beside the bare network and the bare video encoders.

    python benchmarks/gpu_pipeline.py --source street.avi --json figures.json \\
        --weights weights/yolov5s6_pose.pt weights/x.onnx weights/x-FP16.trt
    python benchmarks/gpu_pipeline.py --source street.avi --weights x-FP16.trt --streams 8
    python benchmarks/gpu_pipeline.py --source street.avi --weights x.pt --beside ultralytics

The video is read several times in a row. A row for each of --weights, a .pt in FP16 and in FP32:
GPU time of the network alone; for an .onnx also a bare session on one host array; frames per second
of detect with nothing written, with a video of OpenCV (mp4v) and one of PyAV (h264); ms a frame of
each stage. Warm-up before the first frame is not in them. In front of the rows what each encoder
writes with nothing else running, BGR frames in memory, one thread feeding it. --streams: live
streams of 30 frames/s each, see live_streams.py.

--beside ultralytics: that package, if it is installed, on the same videos in the same run:
yolo11s-pose with random weights, which finds next to nobody and so draws next to nothing.
"""

import argparse
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Callable, Dict, List, NamedTuple, Optional

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")  # before it is imported

import cv2
import numpy as np

from benchmarks import live_streams
from benchmarks.machine import calls_per_second, describe
from utils.runtime.load import load_backend
from utils.runtime.predictor import Predictor
from utils.runtime.video_file import AvEncoder, OpenCvEncoder
from utils.trt.memory import open_memory

BARE_S = 5.0  # of the bare session
OTHER_S = 240  # after which the other tool is given up
OTHER = """
import json, sys, time
from ultralytics import YOLO
source, device, save, folder = sys.argv[1:]
model = YOLO("yolo11s-pose.yaml")
options = dict(stream=True, half=True, imgsz=640, device=device, save=save == "1", verbose=False,
               project=folder, name="other", exist_ok=True)
for _ in model.predict(source, **options):  # kernels are chosen
    break
count, started = 0, None
for _ in model.predict(source, **options):
    count, started = count + 1, started or time.perf_counter()
spent = time.perf_counter() - started
print(json.dumps({"frames": count, "frames_per_s": (count - 1) / spent}))
"""


class Case(NamedTuple):
    """A file and the precision of a .pt."""

    weights: str
    half: bool

    @property
    def name(self) -> str:
        kind = "" if not self.weights.endswith(".pt") else ", FP16" if self.half else ", FP32"
        return Path(self.weights).name + kind


def cases(args: argparse.Namespace) -> List[Case]:
    """A .pt in FP16, and in FP32 unless --half."""
    found = []
    for weights in args.weights:
        is_pt = weights.endswith(".pt")
        found += [Case(weights, is_pt)]
        found += [Case(weights, False)] if is_pt and not args.half else []
    return found


def copies(source: str, folder: Path, count: int) -> Path:
    """A folder with the video several times."""
    folder.mkdir()
    for i in range(count):
        shutil.copy(source, str(folder / ("%d%s" % (i, Path(source).suffix))))
    return folder


def run_detect(case: Case, args: argparse.Namespace, folder: Path, *, extra: List[str]) -> dict:
    """One run of the script; its summary.json."""
    command = [sys.executable, str(ROOT / "detect_multi_backend.py"), "--weights", case.weights]
    command += ["--source", str(folder / "videos"), "--device", args.device]
    command += ["--project", str(folder / "runs"), *extra]
    command += ["--half"] if case.half else []
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr[-2000:])
    newest = max((folder / "runs").glob("exp*"), key=os.path.getmtime)
    return json.loads((newest / "summary.json").read_text())


def network(case: Case, args: argparse.Namespace) -> Dict[str, Any]:
    """GPU time of the network alone on the first frame, ms; how a frame by itself is served, ms."""
    backend = load_backend(case.weights, args.device, case.half)
    predictor = Predictor(backend)
    frame = frames_of(args.source, 1)[0]
    for _ in range(10):
        predictor([frame])
    started = time.perf_counter()
    for _ in range(100):
        predictor([frame])
    alone_ms = 10 * (time.perf_counter() - started)
    times = backend.engine_ms()
    found = {
        "backend": backend.description,
        "graph_refused": getattr(backend, "graph_refused", None),
        "network_ms": None if times is None else float(np.median(times)),
        "image_to_poses_ms": alone_ms,
    }
    if case.weights.endswith(".onnx"):
        view = predictor.preprocess([frame])[0]
        found["bare_session_per_s"] = session_rate(case.weights, args.device, view.batch)
    return found


def session_rate(weights: str, device: str, batch: Optional[np.ndarray]) -> float:
    """Runs per second of an ONNX Runtime session as it comes, on one host array."""
    import onnxruntime

    assert batch is not None
    cuda = ("CUDAExecutionProvider", {"device_id": device, "use_tf32": 0})
    providers = ["CPUExecutionProvider"] if device == "cpu" else [cuda, "CPUExecutionProvider"]
    session = onnxruntime.InferenceSession(weights, providers=providers)
    if len(session.get_providers()) < len(providers):  # it would go on with the CPU
        raise SystemExit("CUDA of ONNX Runtime did not start")
    given = session.get_inputs()[0]
    if given.type != "tensor(uint8)" and batch.dtype == np.uint8:
        batch = batch.transpose(0, 3, 1, 2)[:, ::-1] / np.float32(255)
    dtype = {"tensor(float16)": np.float16, "tensor(uint8)": np.uint8}.get(given.type, np.float32)
    feed = {given.name: np.ascontiguousarray(batch, dtype)}
    return calls_per_second(lambda: session.run(None, feed), BARE_S, warm_up=5)


def frames_of(source: str, most: int) -> List[np.ndarray]:
    """The first frames of a video, decoded."""
    video, frames = cv2.VideoCapture(source), []
    while len(frames) < most:
        ok, frame = video.read()
        if not ok:
            break
        frames.append(frame)
    assert frames, source
    return frames


def encoder_fps(make: Callable[..., Any], frames: List[np.ndarray], folder: Path) -> float:
    """Frames per second of an encoder by itself, BGR frames in memory, on the thread that calls it.

    The conversion of H.264's colours is in it; detect does that in the threads that draw.
    """
    encoder = make(folder / "x.mp4", 25.0, frames[0].shape[:2])
    started = time.perf_counter()
    for frame in frames:
        encoder.write(encoder.ready(frame))
    encoder.close()
    return len(frames) / (time.perf_counter() - started)


def other_tool(args: argparse.Namespace, folder: Path) -> Dict[str, Any]:
    """Frames per second of ultralytics, nothing saved and saved."""
    found: Dict[str, Any] = {}
    for save, key in (("0", "nothing written"), ("1", "video written")):
        command = [sys.executable, "-c", OTHER, str(folder / "videos"), args.device, save]
        try:
            done = subprocess.run(
                [*command, str(folder / "other")], capture_output=True, text=True,
                cwd=str(folder), timeout=OTHER_S,
                env={**os.environ, "YOLO_CONFIG_DIR": str(folder), "YOLO_AUTOINSTALL": "false"},
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            return {**found, "error": "not done after %d s" % OTHER_S}
        lines = done.stdout.strip().splitlines()
        if done.returncode or not lines:
            return {**found, "error": (done.stderr or done.stdout)[-1000:]}
        found[key] = json.loads(lines[-1])
    return found


def measure(args: argparse.Namespace, folder: Path) -> Dict[str, Any]:
    """All figures; each row is printed when it is there."""
    has_av = importlib.util.find_spec("av") is not None
    encoders = {"mp4v": OpenCvEncoder, **({"h264": AvEncoder} if has_av else {})}
    frames = frames_of(args.source, 300)
    figures: Dict[str, Any] = {"machine": describe(), "argv": sys.argv[1:], "rows": []}
    figures["frame_hw"], figures["frames"] = list(frames[0].shape[:2]), len(frames)
    figures["bare_encoder"] = {k: encoder_fps(m, frames, folder) for k, m in encoders.items()}
    print("bare encoder, frames/s: %s" % rounded(figures["bare_encoder"]))
    print("| weights | network ms | image to poses ms | bare session/s | nothing written | mp4v | "
          "h264 | ms a frame, nothing written | ms a frame, last video |")  # fmt: skip
    print("|---|---|---|---|---|---|---|---|---|", flush=True)
    for case in cases(args):
        row: Dict[str, Any] = {"weights": case.name, **network(case, args)}
        plain = run_detect(case, args, folder, extra=["--nosave"])
        row["nothing written"] = plain["frames_per_s"]
        row["frames"], row["poses"] = plain["frames"], plain["poses"]
        row["ms_each"], row["warm_up_s"] = {"nothing written": plain["ms_each"]}, plain["warm_up_s"]
        stages = plain["ms_each"]
        for codec in encoders:
            video = run_detect(case, args, folder, extra=["--codec", codec])
            row[codec] = video["frames_per_s"]
            stages = row["ms_each"][codec] = video["ms_each"]
        figures["rows"].append(row)
        values = [row.get(k) for k in ("network_ms", "image_to_poses_ms", "bare_session_per_s")]
        values += [row.get(k) for k in ("nothing written", "mp4v", "h264")]
        cells = ["" if v is None else "%.2f" % v if v < 20 else "%.0f" % v for v in values]
        cells += [rounded(plain["ms_each"]), rounded(stages)]
        print("| %s | %s |" % (case.name, " | ".join(cells)), flush=True)
    if args.beside:
        figures[args.beside] = other_tool(args, folder)
        print("%s: %s" % (args.beside, json.dumps(figures[args.beside])), flush=True)
    if args.streams:
        figures["streams"] = [live(case, args) for case in cases(args)]
        print(live_streams.table(figures["streams"]))
    return figures


def rounded(values: Dict[str, float]) -> str:
    return ", ".join("%s %.2f" % item for item in values.items() if item[1])


def live(case: Case, args: argparse.Namespace) -> Dict[str, Any]:
    """In a process of its own, as detect would be."""
    with tempfile.TemporaryDirectory() as name:
        command = [sys.executable, str(ROOT / "benchmarks" / "live_streams.py")]
        command += ["--weights", case.weights, "--source", args.source, "--device", args.device]
        command += ["--streams", str(args.streams), "--json", str(Path(name) / "x.json")]
        command += ["--half"] if case.half else []
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(done.stderr[-2000:])
        (row,) = json.loads((Path(name) / "x.json").read_text())
        return {**row, "weights": case.name}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--weights", nargs="+", required=True)
    parser.add_argument("--source", required=True, help="a video")
    parser.add_argument("--device", default="0")
    parser.add_argument("--half", action="store_true", help="a .pt in FP16 only")
    parser.add_argument("--copies", type=int, default=5, help="times that the video is read")
    parser.add_argument("--streams", type=int, default=0, help="live streams, 0: none")
    parser.add_argument("--beside", choices=["ultralytics"], help="another tool in the same run")
    parser.add_argument("--json", help="write the figures here")
    args = parser.parse_args()
    if args.beside and importlib.util.find_spec(args.beside) is None:
        parser.error("--beside %s: the package is not installed" % args.beside)
    gpu = "" if args.device == "cpu" else ", " + open_memory(int(args.device)).device_name
    print(describe() + gpu)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        copies(args.source, folder / "videos", args.copies)
        figures = {"gpu": gpu[2:], **measure(args, folder)}
    if args.json:
        Path(args.json).write_text(json.dumps(figures, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
