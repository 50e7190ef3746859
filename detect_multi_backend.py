"""Detect people and their keypoints in images, videos and streams, with any backend.

    python detect_multi_backend.py --weights weights/yolov5s6_pose.onnx --source data/images
    python detect_multi_backend.py --weights x.pt --source street.mp4 --device 0
    python detect_multi_backend.py --weights x.onnx --source 0 --view-img              # webcam
    python detect_multi_backend.py --weights x.onnx --source rtsp://host/stream
    python detect_multi_backend.py --weights x.onnx --source list.txt --save-txt --save-json

Results: runs/detect/exp, exp2, ...
"""

import argparse
import json
import time
from pathlib import Path
from typing import List, NamedTuple

from utils import cli
from utils.errors import InputError
from utils.files import atomic_path, increment_dir, remove_if_empty
from utils.pose.drawing import draw_poses
from utils.pose.letterbox import parse_size
from utils.pose.poses import Poses
from utils.runtime.backend import format_shape
from utils.runtime.detector import Detector
from utils.runtime.load import load_backend
from utils.runtime.predictor import Predictor
from utils.runtime.sources import Frame, Source, display_name, open_source
from utils.runtime.writers import ResultWriter

LINES_UP_TO = 20  # images; longer sources get a bar instead of a line an image


def get_args_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "detect_multi_backend.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--weights", required=True, help=".pt, .onnx or TensorRT engine")
    add("--source", default="data/images", help="image, video, folder, glob, webcam index, "
        "rtsp/http address, list file .txt/.streams [data/images]")  # fmt: skip
    add("--img-size", "--img", "--imgsz", nargs="+", type=int, metavar="PX",
        help="one number or height width [the model's own, else 640]")  # fmt: skip
    add("--square", action="store_true", help="pad to the full size also where the model takes "
        "a rectangle that fits the picture; for comparing with a static export")  # fmt: skip
    add("--conf-thres", type=float, help="score threshold, 0..1 [0.25; with NMS inside the model "
        "its own, which only a higher one changes]")  # fmt: skip
    add("--iou-thres", type=float, help="NMS IoU threshold, 0..1 [0.45; with NMS inside the model "
        "its own]")  # fmt: skip
    add("--max-det", type=int, default=300, help="detections an image at most [300]")
    add("--device", default="", help="cpu or a GPU index [a GPU if this runtime has one]")
    add("--half", action="store_true", help="FP16 inference of a .pt on a GPU")
    add("--kpt-label", action="store_true", help="accepted for old command lines; always on")
    add("--classes", nargs="+", type=int, help="keep only these class indices")
    add("--agnostic-nms", action="store_true", help="NMS across classes")
    add("--augment", action="store_true", help="three views of each image, merged (slower)")
    add("--view-img", action="store_true", help="show results in a window; q or Esc ends")
    add("--save-txt", action="store_true", help="labels/*.txt")
    add("--save-conf", action="store_true", help="with --save-txt: score as the last column")
    add("--save-json", action="store_true", help="predictions.json, COCO keypoint results")
    add("--save-crop", action="store_true", help="crops/<class>/*.jpg")
    add("--nosave", action="store_true", help="no annotated images or videos")
    add("--project", default="runs/detect", help="results go to project/name [runs/detect]")
    add("--name", default="exp", help="results go to project/name [exp]")
    add("--exist-ok", action="store_true", help="reuse project/name instead of a new number")
    add("--line-thickness", type=int, default=0, help="line width, px [0: by image size]")
    add("--hide-labels", action="store_true", help="draw no text")
    add("--hide-conf", action="store_true", help="draw no scores")
    add("--kpt-thres", type=float, default=0.5, help="draw keypoints above this confidence [0.5]")
    return parser


def check_args(args: argparse.Namespace) -> None:
    """Errors that need no model."""
    for flag in ("conf_thres", "iou_thres", "kpt_thres"):
        value = getattr(args, flag)
        if value is not None and not 0 <= value <= 1:
            raise InputError("--%s %g: expected 0 to 1" % (flag.replace("_", "-"), value))
    if args.line_thickness < 0:
        raise InputError("--line-thickness %d: expected px, 0: automatic" % args.line_thickness)
    if not args.name:
        raise InputError("--name: expected the name of a folder")
    if args.max_det < 1:
        raise InputError("--max-det %d: expected at least 1" % args.max_det)
    if args.save_conf and not args.save_txt:
        raise InputError("--save-conf goes with --save-txt")
    if args.view_img:
        check_window()


def check_window() -> None:
    """Raise InputError where OpenCV has no windows, before any work is done."""
    import cv2

    try:
        cv2.namedWindow("detect")
    except cv2.error as e:
        raise InputError(
            "--view-img: this OpenCV or machine shows no windows; "
            "pip install opencv-python (not -headless) and set DISPLAY"
        ) from e


def summarize(poses: Poses, names: List[str]) -> str:
    """`2 person, 1 dog` or `nothing`."""
    counts = [(int((poses.classes == i).sum()), name) for i, name in enumerate(names)]
    return ", ".join("%d %s" % c for c in counts if c[0]) or "nothing"


def main(args: argparse.Namespace) -> None:
    check_args(args)
    size = None if args.img_size is None else parse_size(args.img_size)
    source = open_source(args.source)
    many = bool(source.videos) or len(source.images) > LINES_UP_TO
    backend = load_backend(args.weights, args.device, args.half, throughput=many)
    predictor = Predictor(
        backend,
        size,
        args.conf_thres,
        args.iou_thres,
        args.agnostic_nms,
        args.max_det,
        args.classes,
        auto=not args.square,
        augment=args.augment,
    )
    print(
        "%s: %s, input %s, size %dx%d, %d keypoints"
        % (
            args.weights,
            backend.description,
            format_shape(backend.input_shape),
            predictor.net_hw[0],
            predictor.net_hw[1],
            backend.nkpt,
        )
    )
    check_not_own_input(args, source)
    folder = increment_dir(args.project, args.name, args.exist_ok)
    writer = ResultWriter(
        folder,
        backend.names,
        images=not args.nosave,
        txt=args.save_txt,
        txt_conf=args.save_conf,
        json_rows=args.save_json,
        crops=args.save_crop,
        numeric_ids=names_are_numbers(source),
    )
    detector = Detector(source, predictor)
    try:
        run = process(args, detector, writer)
        if not run.frames and not run.interrupted:
            raise InputError(
                "--source %s: nothing could be read: %s"
                % (display_name(args.source), describe(source.skipped))
            )
        if run.frames:
            report(args, folder, detector, run)
    finally:
        remove_if_empty(folder)
    if run.interrupted:
        raise KeyboardInterrupt


def check_not_own_input(args: argparse.Namespace, source: Source) -> None:
    """With --exist-ok results may land in the folder of their source: not over it."""
    folder = (Path(args.project) / args.name).resolve()
    if args.exist_ok and not args.nosave:
        for path in source.images + source.videos:
            if Path(path).resolve().parent == folder:
                raise InputError(
                    "--name %s: the results would overwrite the source %s" % (args.name, path)
                )


class Run(NamedTuple):
    """What was done."""

    frames: int
    poses: int
    seconds: float
    interrupted: bool


def names_are_numbers(source: Source) -> bool:
    """Whether every file name is a number of its own, as COCO's are."""
    stems = [Path(p).stem for p in source.images]
    numbers = {int(s) for s in stems if s.isdecimal()}
    return len(numbers) == len(stems) and not source.videos and not source.streams


def process(args: argparse.Namespace, detector: Detector, writer: ResultWriter) -> Run:
    """Draw and write what the detector finds; on Ctrl-C keep what was done."""
    source, names = detector.source, detector.predictor.backend.names
    total = source.total
    bar = None
    if total is None or total > LINES_UP_TO or source.videos:
        from tqdm import tqdm

        bar = tqdm(total=total, unit="frame", desc="detect")
    frames = found = 0
    interrupted = False
    started = time.perf_counter()
    results = detector.run()
    try:
        for frame, poses in results:
            with detector.timer("draw/write"):
                writer.write_data(frame, poses)
                if not args.nosave or args.view_img:
                    draw_poses(
                        frame.image,
                        poses,
                        names,
                        args.line_thickness,
                        not args.hide_labels,
                        not args.hide_conf,
                        args.kpt_thres,
                    )
                writer.write_image(frame, frame.image)
            frames, found = frames + 1, found + poses.count
            if bar is not None:
                bar.update()
            else:
                h, w = frame.image.shape[:2]
                print("%s %dx%d: %s" % (frame.path, h, w, summarize(poses, names)))
            if args.view_img and show(frame):
                source.close()
    except KeyboardInterrupt:
        interrupted = True
    finally:
        results.close()  # type: ignore  # a generator
        if bar is not None:
            bar.close()
        writer.close()
    return Run(frames, found, time.perf_counter() - started, interrupted)


def show(frame: Frame) -> bool:
    """Show a frame; True when the user asks to end."""
    import cv2

    cv2.imshow("detect", frame.image)
    return cv2.waitKey(1 if frame.kind != "image" else 500) & 0xFF in (27, ord("q"))


def describe(skipped: List) -> str:
    text = "; ".join("%s (%s)" % item for item in skipped[:3])
    return text + ("; and %d more" % (len(skipped) - 3) if len(skipped) > 3 else "")


def report(args: argparse.Namespace, folder: Path, detector: Detector, run: Run) -> None:
    """Counts, skipped files, timing; and the same as summary.json."""
    skipped, backend = detector.source.skipped, detector.predictor.backend
    each = detector.timer.milliseconds_each(run.frames)
    stages = ", ".join("%s %.1f" % item for item in each.items())
    if backend.workers > 1:
        stages += " (%d inferences at a time)" % backend.workers
    for path, reason in skipped:
        print("skipped: %s (%s)" % (display_name(path), reason))
    for path, reason in detector.source.incomplete:
        print("incomplete: %s (%s)" % (display_name(path), reason))
    print(
        "%d frames, %d poses, %d files skipped; ms a frame: %s; %.2f frames/s overall"
        % (run.frames, run.poses, len(skipped), stages, run.frames / run.seconds)
    )
    summary = {
        "weights": args.weights,
        "source": display_name(args.source),
        "backend": backend.description,
        "size_hw": list(detector.predictor.net_hw),
        "frames": run.frames,
        "poses": run.poses,
        "skipped": [{"path": display_name(p), "reason": r} for p, r in skipped],
        "incomplete": [
            {"path": display_name(p), "reason": r} for p, r in detector.source.incomplete
        ],
        "ms_each": each,
        "workers": backend.workers,
        "frames_per_s": run.frames / run.seconds,
        "interrupted": run.interrupted,
    }
    with atomic_path(folder / "summary.json") as tmp:
        tmp.write_text(json.dumps(summary, indent=1), encoding="utf-8")
    print("results in %s" % folder)


if __name__ == "__main__":
    cli.run(main, get_args_parser())
