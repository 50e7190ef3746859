"""detect: a source through a Predictor to drawn images, videos, labels and JSON.

folder = detect(DetectConfig("weights/x.onnx", source="data/images"))
"""

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Iterator, List, NamedTuple, Optional, Tuple

import numpy as np

from utils.device import available_cores
from utils.errors import InputError, warn
from utils.files import atomic_path, increment_dir, remove_if_empty
from utils.pipeline import one_thread_a_stage, parallel_map, prefetch
from utils.pose.drawing import draw_poses
from utils.pose.letterbox import parse_size
from utils.pose.poses import Poses
from utils.runtime.backend import Backend, format_shape
from utils.runtime.detect_config import DetectConfig
from utils.runtime.detector import Detector
from utils.runtime.load import load_backend
from utils.runtime.sources import Frame, Source, display_name, open_source
from utils.runtime.tta import predictor_class
from utils.runtime.video_file import resolve_codec
from utils.runtime.writers import ResultWriter
from utils.words import counted

if TYPE_CHECKING:  # imported where used: the start of detect is felt
    from utils.runtime.tracks import Tracks

CORES_A_DRAWER = 4  # threads that draw leave the other cores to decoding and inference
MAX_DRAWERS = 4
LINES_UP_TO = 20  # images; more of them get a bar instead of a line each, as videos do


def check_window() -> None:
    """Raise InputError where OpenCV has no windows, before any work is done."""
    import cv2

    try:
        cv2.namedWindow("detect")
    except cv2.error as e:
        raise InputError(
            "`view_img`: this OpenCV or machine shows no windows; "
            "pip install opencv-python (not -headless) and set DISPLAY"
        ) from e


def summarize(poses: Poses, names: List[str]) -> str:
    """`2 persons, 1 dog` or `nothing`."""
    counts = [(int((poses.classes == i).sum()), name) for i, name in enumerate(names)]
    return ", ".join(counted(*c) for c in counts if c[0]) or "nothing"


def detect(config: DetectConfig) -> Path:
    """Run a model on a source, write what the config asks for; the folder of the results.

    Raises InputError for files and machines that cannot be used, and KeyboardInterrupt after
    Ctrl-C, when what was done until then has been kept.
    """
    if config.view_img:
        check_window()
    one_thread_a_stage()
    detector, tracks = open_detector(config)
    source = detector.source
    check_not_own_input(config, source)
    folder = increment_dir(config.project, config.name, config.exist_ok)
    writer = open_writer(config, detector, folder)
    try:
        run = process(config, detector, writer, tracks=tracks)
        if not run.frames and not run.interrupted:
            raise InputError(
                "`source` %s: nothing could be read: %s"
                % (display_name(config.source), describe(source.skipped))
            )
        if run.frames:
            report(config, folder, detector, run=run)
    finally:
        remove_if_empty(folder)
    if run.interrupted:
        raise KeyboardInterrupt
    if source.lost:
        raise InputError(
            "`source` %s: %s; what was found before is kept; `reconnect` says how "
            "long to wait (0: for ever)" % (display_name(source.lost[0][0]), source.lost[0][1])
        )
    return folder


def open_detector(config: DetectConfig) -> Tuple[Detector, Optional["Tracks"]]:
    """Source, model and tracks as the config says; a line says what runs. Raises InputError."""
    size = None if config.img_size is None else parse_size(config.img_size)
    source = open_source(config.source, config.reconnect)
    many = bool(source.videos) or len(source.images) > LINES_UP_TO
    backend = load_backend(config.weights, config.device, config.half, throughput=many)
    conf_thres, tracks = make_tracks(config, backend, source)
    predictor = predictor_class(augment=config.augment)(
        backend,
        size,
        conf_thres,
        iou_thres=config.iou_thres,
        agnostic=config.agnostic_nms,
        max_det=config.max_det,
        classes=config.classes,
        auto=not config.square,
    )
    detector = Detector(
        source, predictor, batch_size=config.batch_size, max_wait_ms=config.max_wait
    )
    print(
        "%s: %s, input %s, size %dx%d, %d keypoints"
        % (
            config.weights,
            backend.description,
            format_shape(backend.input_shape),
            predictor.net_hw[0],
            predictor.net_hw[1],
            backend.nkpt,
        )
    )
    return detector, tracks


def open_writer(config: DetectConfig, detector: Detector, folder: Path) -> ResultWriter:
    """The writer of what the config asks for. Raises InputError if it would replace files."""
    source = detector.source
    writer = ResultWriter(
        folder,
        detector.predictor.backend.names,
        images=not config.nosave,
        txt=config.save_txt,
        txt_conf=config.save_conf,
        json_rows=config.save_json,
        crops=config.save_crop,
        mot=config.save_mot,
        numeric_ids=names_are_numbers(source),
        skel=detector.predictor.backend.skeleton,
        codec=resolve_codec(config.codec),
    )
    if config.exist_ok:
        writer.check_free(source.images + source.videos)
    return writer


def make_tracks(
    config: DetectConfig, backend: Backend, source: Source
) -> Tuple[Optional[float], Optional["Tracks"]]:
    """Score threshold of the Predictor, and the tracks if the config asks for them."""
    if not config.track:
        return config.conf_thres, None
    from utils.runtime.tracks import Tracks, check_sequence, thresholds
    from utils.tracking.smoothing import SmoothConfig
    from utils.tracking.tracker import TrackerConfig

    check_sequence(source)
    high, low = thresholds(backend, config.conf_thres, config.track_low_thres)
    tracker = TrackerConfig(high, low, oks_weight=config.track_oks, max_lost=config.track_lost)
    smooth = SmoothConfig(config.smooth_cutoff, config.smooth_beta) if config.smooth else None
    return low, Tracks(tracker, smooth, sigmas=backend.skeleton.sigmas)


def check_not_own_input(config: DetectConfig, source: Source) -> None:
    """With --exist-ok results may land in the folder of their source: not over it."""
    folder = (Path(config.project) / config.name).resolve()
    if config.exist_ok and not config.nosave:
        for path in source.images + source.videos:
            if Path(path).resolve().parent == folder:
                raise InputError(
                    "`name` %s: the results would overwrite the source %s" % (config.name, path)
                )


class DetectRun(NamedTuple):
    """What was done."""

    frames: int
    poses: int
    seconds: float
    interrupted: bool
    tracks: Optional[int]  # IDs given; None: not tracked


def names_are_numbers(source: Source) -> bool:
    """Whether every file name is a number of its own, as COCO's are."""
    stems = [Path(p).stem for p in source.images]
    numbers = {int(s) for s in stems if s.isdecimal()}
    return len(numbers) == len(stems) and not source.videos and not source.streams


def process(
    config: DetectConfig,
    detector: Detector,
    writer: ResultWriter,
    *,
    tracks: Optional["Tracks"] = None,
) -> DetectRun:
    """Draw and write what the detector finds; on Ctrl-C keep what was done."""
    source, names = detector.source, detector.predictor.backend.names
    lines = len(source.images) <= LINES_UP_TO
    bar = None
    if not lines or source.videos or source.streams:
        from tqdm import tqdm

        bar = tqdm(total=source.total, unit="frame", desc="detect", disable=None)
    say = print if bar is None else bar.write  # beside a bar, not in it
    frames = found = 0
    started = time.perf_counter()
    results = drawn(config, detector, writer, tracks=tracks)
    interrupted = False
    try:
        for frame, poses, _, ready in results:
            with detector.timer("write"):
                writer.write_image(frame, frame.image, ready)
            frames, found = frames + 1, found + poses.count
            if lines and frame.kind == "image":
                h, w = frame.image.shape[:2]
                say("%s %dx%d: %s" % (frame.path, h, w, summarize(poses, names)))
            if bar is not None:
                bar.update()
            if config.view_img and show(frame):
                source.close()
    except KeyboardInterrupt:
        interrupted = True
    finally:
        if bar is not None:
            bar.close()
        interrupted = finish(results, writer, interrupted)
    given = None if tracks is None else tracks.count
    return DetectRun(
        frames, found, time.perf_counter() - started - detector.warm_up_s, interrupted, given
    )


def finish(results: Iterator["Drawn"], writer: ResultWriter, interrupted: bool) -> bool:
    """End the threads and the files; whether Ctrl-C came before that or meanwhile.

    Raises InputError for a file that cannot be written.
    """
    try:
        try:
            results.close()  # type: ignore  # a generator
            writer.close()
        except KeyboardInterrupt:  # the first one; no other follows, see utils/stopping.py
            interrupted = True
            writer.close()
    except InputError as e:
        if interrupted:  # of a script that was stopped nothing else is told
            warn(str(e))
        raise
    return interrupted


class Drawn(NamedTuple):
    """A frame with its poses in it."""

    frame: Frame
    poses: Poses
    ids: Optional[np.ndarray]  # (n,) identities, None without tracking
    ready: Optional[object] = None  # the frame as ResultWriter.encoded returns it


def drawn(
    config: DetectConfig, detector: Detector, writer: ResultWriter, *, tracks: Optional["Tracks"]
) -> Iterator[Drawn]:
    """Frames in source order with their poses drawn, ahead of the caller, who writes them.

    Tracks are updated, and labels, crops and JSON rows written on the way, before anything is
    drawn. The threads that draw also encode images, and convert the colours of H.264.
    """
    backend = detector.predictor.backend
    names, skel = backend.names, backend.skeleton

    def draw(found: Drawn) -> Drawn:
        with detector.timer("draw"):
            draw_poses(
                found.frame.image,
                found.poses,
                names,
                skel=skel,
                line_width=config.line_thickness,
                labels=not config.hide_labels,
                confidences=not config.hide_conf,
                kpt_thres=config.kpt_thres,
                ids=found.ids,
            )
            return found._replace(ready=writer.encoded(found.frame, found.frame.image))

    def written() -> Iterator[Drawn]:
        for frame, poses in detector.run():
            ids = None
            if tracks is not None:
                with detector.timer("track"):
                    poses, ids = tracks.update(frame, poses)
            with detector.timer("write"):
                writer.write_data(frame, poses, ids)
            yield Drawn(frame, poses, ids)

    if config.nosave and not config.view_img:
        return written()
    workers = min(max(available_cores() // CORES_A_DRAWER, 1), MAX_DRAWERS)
    depth = 1 if detector.source.live else 2
    return prefetch(parallel_map(draw, written(), workers), depth, detector.source.close)


def show(frame: Frame) -> bool:
    """Show a frame; True when the user asks to end."""
    import cv2

    cv2.imshow("detect", frame.image)
    return cv2.waitKey(1 if frame.kind != "image" else 500) & 0xFF in (27, ord("q"))


def describe(skipped: List) -> str:
    text = "; ".join("%s (%s)" % item for item in skipped[:3])
    return text + ("; and %d more" % (len(skipped) - 3) if len(skipped) > 3 else "")


def report(config: DetectConfig, folder: Path, detector: Detector, *, run: DetectRun) -> None:
    """Counts, skipped files, timing; and the same as summary.json."""
    skipped, backend = detector.source.skipped, detector.predictor.backend
    each = detector.timer.milliseconds_each(run.frames)
    if run.tracks is None:
        del each["track"]
    stages = ", ".join("%s %.1f" % item for item in each.items())
    if backend.workers > 1:
        stages += " (%d inferences at a time)" % backend.workers
    if detector.warm_up_s:
        stages += "; warm-up %.1f s before the first frame" % detector.warm_up_s
    for path, reason in skipped:
        print("skipped: %s (%s)" % (display_name(path), reason))
    for path, reason in detector.source.incomplete:
        print("incomplete: %s (%s)" % (display_name(path), reason))
    found = counted(run.poses, "pose")
    if run.tracks is not None:
        found += " of " + counted(run.tracks, "track")
    print(
        "%s, %s, %s skipped; ms a frame: %s; %.2f frames/s overall"
        % (
            counted(run.frames, "frame"),
            found,
            counted(len(skipped), "file"),
            stages,
            run.frames / run.seconds,
        )
    )
    summary = {
        "weights": config.weights,
        "source": display_name(config.source),
        "backend": backend.description,
        "size_hw": list(detector.predictor.net_hw),
        "frames": run.frames,
        "poses": run.poses,
        "tracks": run.tracks,
        "skipped": [{"path": display_name(p), "reason": r} for p, r in skipped],
        "incomplete": [
            {"path": display_name(p), "reason": r} for p, r in detector.source.incomplete
        ],
        "ms_each": each,
        "workers": backend.workers,
        "warm_up_s": detector.warm_up_s,
        "frames_per_s": run.frames / run.seconds,
        "interrupted": run.interrupted,
    }
    with atomic_path(folder / "summary.json") as tmp:
        tmp.write_text(json.dumps(summary, indent=1), encoding="utf-8")
    print("results in %s" % folder)
