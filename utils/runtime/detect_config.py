"""What `detect` runs and writes, checked before any work is done."""

import dataclasses
import math
from typing import Optional, Sequence

from utils.errors import InputError, check_limits
from utils.runtime.detector import MAX_WAIT_MS
from utils.runtime.live import RECONNECT_S
from utils.runtime.video_file import resolve_codec

LIMITS = {  # parameter -> (lowest, highest)
    "conf_thres": (0, 1), "iou_thres": (0, 1), "kpt_thres": (0, 1), "track_low_thres": (0, 1),
    "track_oks": (0, 1), "max_det": (1, 100000), "line_thickness": (0, 1000),
    "track_lost": (1, 1000000), "batch_size": (1, 4096), "max_wait": (0, 10000),
}  # fmt: skip


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
        check_limits(self, LIMITS)
        resolve_codec(self.codec)
        if not self.name:
            raise InputError("`name`: expected the name of a folder")
        if not 0 <= self.reconnect <= 1e6:
            raise InputError("`reconnect` %g: expected seconds, 0: for ever" % self.reconnect)
        if self.save_conf and not self.save_txt:
            raise InputError("`save_conf` goes with `save_txt`")
        if self.save_mot and not self.track:
            raise InputError("`save_mot` goes with `track`")
        if self.smooth and not self.track:
            raise InputError("`smooth` goes with `track`")
        if not 0 < self.smooth_cutoff < math.inf:
            raise InputError("`smooth_cutoff` %g: expected Hz above 0" % self.smooth_cutoff)
        if not 0 <= self.smooth_beta < math.inf:
            raise InputError("`smooth_beta` %g: expected at least 0" % self.smooth_beta)
