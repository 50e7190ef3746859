"""detect: a source through a Predictor to drawn images, videos, labels and JSON.

folder = detect(DetectConfig("weights/x.onnx", source="data/images"))
"""

import dataclasses
import json
import math
import time
from pathlib import Path
from typing import Iterator, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np

from utils.device import available_cores
from utils.errors import InputError
from utils.files import atomic_path, increment_dir, remove_if_empty
from utils.pipeline import parallel_map, prefetch
from utils.pose.drawing import draw_poses
from utils.pose.letterbox import parse_size
from utils.pose.poses import Poses
from utils.runtime.backend import Backend, format_shape
from utils.runtime.detector import MAX_WAIT_MS, Detector
from utils.runtime.live import RECONNECT_S
from utils.runtime.load import load_backend
from utils.runtime.sources import Frame, Source, display_name, open_source
from utils.runtime.tracks import Tracks, check_sequence, thresholds
from utils.runtime.tta import predictor_class
from utils.runtime.video_file import resolve_codec
from utils.runtime.writers import ResultWriter
from utils.tracking.smoothing import SmoothConfig
from utils.tracking.tracker import TrackerConfig
from utils.words import counted

CORES_A_DRAWER = 4  # threads that draw leave the other cores to decoding and inference
MAX_DRAWERS = 4
LINES_UP_TO = 20  # images; longer sources get a bar instead of a line an image


@dataclasses.dataclass(frozen=True)
class DetectConfig:
    """What `detect` runs and writes. Raises InputError for values that cannot be."""

    weights: str  # .pt, .onnx or TensorRT engine
    source: str = "data/images"  # image, video, folder, glob, webcam index, address, list file
    reconnect: float = RECONNECT_S  # s that a stream may stay away, 0: for ever
    img_size: Optional[Sequence[int]] = None  # px, one number or height width [the model's own]
    batch_size: Optional[int] = None  # images at a time [that of a model of fixed batch, else 1]
    max_wait: float = MAX_WAIT_MS  # ms a frame of a live stream waits for those of the others
    square: bool = False  # pad to the full size also where the model takes a rectangle
    conf_thres: Optional[float] = None  # 0..1 [0.25, embedded NMS: its own]
    iou_thres: Optional[float] = None  # 0..1 [0.45, embedded NMS: its own]
    max_det: int = 300  # poses an image at most
    device: str = ""  # cpu or a GPU index, empty: a GPU if this runtime has one
    half: bool = False  # FP16 inference of a .pt on a GPU
    classes: Optional[Sequence[int]] = None  # keep only these class indices
    agnostic_nms: bool = False  # NMS across classes
    augment: bool = False  # three views of each image, merged
    view_img: bool = False  # show results in a window
    save_txt: bool = False
    save_conf: bool = False  # with save_txt: score as the last column
    save_json: bool = False
    save_crop: bool = False
    nosave: bool = False  # no annotated images or videos
    codec: str = "auto"  # of videos: h264 (PyAV), mp4v, auto: h264 where PyAV is installed
    project: str = "runs/detect"  # results go to project/name
    name: str = "exp"
    exist_ok: bool = False  # reuse project/name
    line_thickness: int = 0  # px, 0: by image size
    hide_labels: bool = False
    hide_conf: bool = False
    kpt_thres: float = 0.5  # draw keypoints above this confidence
    track: bool = False  # IDs that persist over the frames of a video or stream
    track_low_thres: float = 0.1  # scores above this one continue tracks, 0..1
    track_lost: int = 30  # frames after which a person who is not found is forgotten
    track_oks: float = 0.0  # share of keypoints in the similarity, 0..1; the rest is boxes
    save_mot: bool = False  # with track: mot/*.txt
    smooth: bool = False  # with track: keypoints without jitter
    smooth_cutoff: float = 1.0  # Hz of a point at rest; lower: less jitter, more lag
    smooth_beta: float = 10.0  # Hz more for each body length a second; higher: less lag

    def __post_init__(self) -> None:
        for name in ("conf_thres", "iou_thres", "kpt_thres", "track_low_thres", "track_oks"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1:
                raise InputError("`%s` %g: expected 0 to 1" % (name, value))
        if self.line_thickness < 0:
            raise InputError("`line_thickness` %d: expected px, 0: automatic" % self.line_thickness)
        resolve_codec(self.codec)
        if not self.name:
            raise InputError("`name`: expected the name of a folder")
        if not 0 <= self.reconnect <= 1e6:
            raise InputError("`reconnect` %g: expected seconds, 0: for ever" % self.reconnect)
        if self.batch_size is not None and self.batch_size < 1:
            raise InputError("`batch_size` %d: expected at least 1" % self.batch_size)
        if not 0 <= self.max_wait <= 10000:
            raise InputError("`max_wait` %g: expected 0 to 10000 ms" % self.max_wait)
        if self.max_det < 1:
            raise InputError("`max_det` %d: expected at least 1" % self.max_det)
        if self.save_conf and not self.save_txt:
            raise InputError("`save_conf` goes with `save_txt`")
        if self.track_lost < 1:
            raise InputError("`track_lost` %d: expected at least 1 frame" % self.track_lost)
        if self.save_mot and not self.track:
            raise InputError("`save_mot` goes with `track`")
        if self.smooth and not self.track:
            raise InputError("`smooth` goes with `track`")
        if not 0 < self.smooth_cutoff < math.inf:
            raise InputError("`smooth_cutoff` %g: expected Hz above 0" % self.smooth_cutoff)
        if not 0 <= self.smooth_beta < math.inf:
            raise InputError("`smooth_beta` %g: expected at least 0" % self.smooth_beta)


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
            "`source` %s: stream lost: %s; what was found before is kept; `reconnect` says how "
            "long to wait (0: for ever)" % (display_name(source.lost[0][0]), source.lost[0][1])
        )
    return folder


def open_detector(config: DetectConfig) -> Tuple[Detector, Optional[Tracks]]:
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
) -> Tuple[Optional[float], Optional[Tracks]]:
    """Score threshold of the Predictor, and the tracks if the config asks for them."""
    if not config.track:
        return config.conf_thres, None
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


class Run(NamedTuple):
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
    tracks: Optional[Tracks] = None,
) -> Run:
    """Draw and write what the detector finds; on Ctrl-C keep what was done."""
    source, names = detector.source, detector.predictor.backend.names
    total = source.total
    bar = None
    if total is None or total > LINES_UP_TO or source.videos:
        from tqdm import tqdm

        bar = tqdm(total=total, unit="frame", desc="detect", disable=None)
    frames = found = 0
    interrupted = False
    started = time.perf_counter()
    results = drawn(config, detector, writer, tracks=tracks)
    try:
        for frame, poses, _ in results:
            with detector.timer("write"):
                writer.write_image(frame, frame.image)
            frames, found = frames + 1, found + poses.count
            if bar is not None:
                bar.update()
            else:
                h, w = frame.image.shape[:2]
                print("%s %dx%d: %s" % (frame.path, h, w, summarize(poses, names)))
            if config.view_img and show(frame):
                source.close()
    except KeyboardInterrupt:
        interrupted = True
    finally:
        results.close()  # type: ignore  # a generator
        if bar is not None:
            bar.close()
        writer.close()
    given = None if tracks is None else tracks.count
    return Run(
        frames, found, time.perf_counter() - started - detector.warm_up_s, interrupted, given
    )


class Drawn(NamedTuple):
    """A frame with its poses in it."""

    frame: Frame
    poses: Poses
    ids: Optional[np.ndarray]  # (n,) identities, None without tracking


def drawn(
    config: DetectConfig, detector: Detector, writer: ResultWriter, *, tracks: Optional[Tracks]
) -> Iterator[Drawn]:
    """Frames in source order with their poses drawn, ahead of the caller, who encodes.

    Tracks are updated, and labels, crops and JSON rows written on the way, before anything is
    drawn.
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
        return found

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


def report(config: DetectConfig, folder: Path, detector: Detector, *, run: Run) -> None:
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
