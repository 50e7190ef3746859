"""Results of detect on disk: annotated images and videos, label txt, JSON, crops, tracks."""

import concurrent.futures
import json
import re
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Set

import cv2
import numpy as np

from utils.errors import InputError
from utils.files import atomic_path
from utils.outputs import check_all_replaceable
from utils.pose.keypoints import COCO, Skeleton
from utils.pose.poses import Poses, xyxy_to_cxcywh
from utils.runtime.mot import MotFiles
from utils.runtime.sources import Frame, display_name, is_address
from utils.runtime.video_file import VideoFile, encoder_frame

KEPT_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")


class EncodedImage(NamedTuple):
    """The content of an image file."""

    suffix: str
    data: Optional[np.ndarray]  # (bytes,) uint8; None: OpenCV cannot encode it


class ResultWriter:
    """Writes the results of one run into `folder`.

    Files: `<name>.jpg` or `<name>.mp4` as the source's, `labels/<name>.txt` (video frames:
    `<name>_<frame>.txt`, from 1), `crops/<class>/<name>_<n>.jpg`, `predictions.json` (COCO
    keypoint results), `mot/<name>.txt` (tracks in MOTChallenge format; those of images in
    `mot/images.txt`). Two sources of one name get `<name>` and `<name>_2`.
    """

    def __init__(
        self,
        folder: Path,
        names: Sequence[str],
        images: bool = True,
        *,
        txt: bool = False,
        txt_conf: bool = False,
        json_rows: bool = False,
        crops: bool = False,
        mot: bool = False,
        numeric_ids: bool = False,
        codec: str = "mp4v",
        skel: Skeleton = COCO,
    ):
        self.folder, self.names, self.skeleton = folder, list(names), skel
        self.images, self.txt, self.txt_conf = images, txt, txt_conf
        self.json_rows, self.crops = json_rows, crops
        self.numeric_ids, self._codec = numeric_ids, codec
        self._mot = MotFiles(folder / "mot") if mot else None
        self._stems: Dict[str, str] = {}  # source path -> name of its results
        self._taken: Set[str] = set()  # lower case
        self._videos: Dict[str, VideoFile] = {}
        self._finisher = concurrent.futures.ThreadPoolExecutor(1)
        self._finishing: Optional[concurrent.futures.Future] = None
        self._rows: List[Dict[str, Any]] = []
        self._image_count = 0

    def check_free(self, paths: Sequence[str]) -> None:
        """Raise InputError if results of the images and videos `paths` would replace files that
        are not of this script; in a folder that was there already."""
        names = ["predictions.json", "categories.json", "summary.json"]
        for path in paths:
            stem, suffix = self._stem(path), Path(path).suffix.lower()
            ends = [suffix] if suffix in KEPT_SUFFIXES else [".jpg", ".mp4"]
            names += [*(stem + end for end in ends), "labels/%s.txt" % stem]
        check_all_replaceable(self.folder / name for name in names)

    def write_data(self, frame: Frame, poses: Poses, ids: Optional[np.ndarray] = None) -> None:
        """Labels, crops, JSON and MOT rows; before anything is drawn into `frame.image`.

        Args: ids: (n,) of the tracks, None: not tracked.
        """
        stem = self._stem(frame.path)
        label = stem
        if frame.kind != "image":
            label = self._unique("%s_%d" % (stem, frame.index + 1))
        if self.txt:
            target = self.folder / "labels" / (label + ".txt")
            with atomic_path(target) as tmp:
                tmp.write_text(
                    label_text(poses, frame.image.shape[:2], self.txt_conf, ids=ids),
                    encoding="utf-8",
                )
        if self.crops:
            self._write_crops(frame.image, label, poses)
        if self.json_rows:
            number = self._image_id(frame)
            self._rows += coco_rows(poses, frame, number, nc=len(self.names), ids=ids)
        if self._mot is not None and ids is not None:
            if frame.kind == "image":  # all of them are one sequence
                self._mot.write(self._stem("images"), self._image_count + 1, poses, ids=ids)
            else:
                self._mot.write(stem, frame.index + 1, poses, ids=ids)
        self._image_count += 1

    def encoded(self, frame: Frame, image: np.ndarray) -> Optional[object]:
        """What write_image takes as `ready`, so that its caller has less to do; in any thread.

        The content of an image file, a frame as the encoder of a video wants it, or None.
        """
        if not self.images:
            return None
        if frame.kind != "image":
            return encoder_frame(image, self._codec)
        suffix = Path(frame.path).suffix.lower()
        suffix = suffix if suffix in KEPT_SUFFIXES else ".jpg"
        data = encode(suffix, image)
        if data is None:  # for instance wider than a WebP may be
            suffix, data = ".png", encode(".png", image)
        return EncodedImage(suffix, data)

    def write_image(self, frame: Frame, image: np.ndarray, ready: Optional[object] = None) -> None:
        """The annotated image of a frame: an image file, or the next frame of a video.

        Args: ready: what `encoded` made of frame and image; None: it is made here.
        """
        if not self.images:
            return
        if self._finishing is not None and self._finishing.done():
            self._wait_for_video()  # its error is told now, not hours later
        stem = self._stem(frame.path)
        if frame.kind == "image":
            content = ready if isinstance(ready, EncodedImage) else self.encoded(frame, image)
            assert isinstance(content, EncodedImage)
            write_bytes(self.folder / (stem + content.suffix), content.data)
            return
        video = self._videos.get(frame.path)
        if video is None:
            for path in [p for p, v in self._videos.items() if not v.is_stream]:
                self._wait_for_video()  # one at a time: each holds memory of the encoder
                self._finish(path)  # files come one after the other
            hw = (image.shape[0], image.shape[1])
            video = VideoFile(
                self.folder / (stem + ".mp4"),
                frame.fps,
                hw,
                codec=self._codec,
                is_stream=frame.kind == "stream",
            )
            self._videos[frame.path] = video
        video.write(image, ready)

    def close(self) -> None:
        """Finish videos and the JSON file; what was written so far is kept.

        Raises the error of the first video that could not be finished, when all else is done:
        InputError, or what PyAV says. After Ctrl-C here it may be called again, and goes on.
        """
        errors: List[Exception] = []
        for path in [*self._videos, ""]:  # the last waits only
            try:
                self._wait_for_video()
            except Exception as e:
                errors.append(e)
            if path:
                self._finish(path)
        self._finisher.shutdown(wait=False)
        if self.json_rows:
            with atomic_path(self.folder / "predictions.json") as tmp:
                tmp.write_text(json.dumps(self._rows), encoding="utf-8")
            write_categories(self.folder, self.names, self.skeleton)
        if self._mot is not None:
            self._mot.close()
        if errors:
            raise errors[0]

    def _finish(self, path: str) -> None:
        """Encode what x264 still holds, check and move the file, while the next one begins."""
        self._finishing = self._finisher.submit(self._videos[path].close)
        del self._videos[path]

    def _wait_for_video(self) -> None:
        """Until a video is finished. Raises InputError if it could not be."""
        if self._finishing is not None:
            concurrent.futures.wait([self._finishing])  # after Ctrl-C here `close` waits again
            finished, self._finishing = self._finishing, None
            finished.result()

    def _stem(self, path: str) -> str:
        if path not in self._stems:
            stem = safe_name(display_name(path)) if is_address(path) else Path(path).stem
            self._stems[path] = self._unique(stem)
        return self._stems[path]

    def _unique(self, name: str) -> str:
        """`name`, or name_2, name_3, ... if files of this run have it already."""
        return unique_name(name, self._taken)

    def _image_id(self, frame: Frame) -> int:
        """The number in the file name (COCO: 000000000139.jpg) or a running number, from 0."""
        return int(Path(frame.path).stem) if self.numeric_ids else self._image_count

    def _write_crops(self, image: np.ndarray, label: str, poses: Poses) -> None:
        for i in range(poses.count):
            x1, y1, x2, y2 = np.rint(poses.boxes[i]).astype(int)
            crop = image[y1 : max(y2, y1 + 1), x1 : max(x2, x1 + 1)]
            if crop.size:
                name = safe_name(self.names[int(poses.classes[i])])
                write_image(self.folder / "crops" / name / ("%s_%d.jpg" % (label, i + 1)), crop)


def write_categories(
    folder: Path, names: Sequence[str], skel: Skeleton, *, ids: Optional[Sequence[int]] = None
) -> None:
    """categories.json: what category_id and keypoints of predictions.json mean, as COCO has it.

    A results file of COCO is a list of predictions and has no place for it. Args: ids: category of
    each class, None: 1, 2, ...
    """
    from utils.dataset import category_keypoints

    content = category_keypoints.entries(names, ids or range(1, len(names) + 1), skel)
    with atomic_path(folder / "categories.json") as tmp:
        tmp.write_text(json.dumps(content, ensure_ascii=False, indent=1), encoding="utf-8")


def label_text(
    poses: Poses, image_hw: Sequence[int], with_conf: bool, *, ids: Optional[np.ndarray] = None
) -> str:
    """Label lines: class, cx cy w h, K x (x y conf), all but class and conf over image size.

    With `with_conf` the score of the pose is one more column at the end, with `ids` the ID of its
    track another one after that. Nobody: empty text.
    """
    h, w = image_hw[0], image_hw[1]
    size = np.array([w, h, w, h], np.float64)
    boxes = xyxy_to_cxcywh(poses.boxes.astype(np.float64)) / size
    keypoints = poses.keypoints.astype(np.float64) / np.array([w, h, 1.0])
    lines = []
    for i in range(poses.count):
        values = [*boxes[i], *keypoints[i].ravel()]
        if with_conf:
            values.append(poses.scores[i])
        line = "%d " % poses.classes[i] + " ".join("%.6g" % v for v in values)
        lines.append(line + ("" if ids is None else " %d" % ids[i]) + "\n")
    return "".join(lines)


def coco_rows(
    poses: Poses, frame: Frame, image_id: int, *, nc: int, ids: Optional[np.ndarray] = None
) -> List[Dict[str, Any]]:
    """COCO keypoint result rows with `file_name`, (videos) `frame` from 0 and `track_id` added."""
    from utils.dataset.coco_results import result_json, result_rows

    name = display_name(frame.path) if is_address(frame.path) else Path(frame.path).name
    rows = result_json(result_rows(poses), image_id, range(1, nc + 1))
    for i, row in enumerate(rows):
        row["file_name"] = name
        if frame.kind != "image":
            row["frame"] = frame.index
        if ids is not None:
            row["track_id"] = int(ids[i])
    return rows


def unique_name(name: str, taken: Set[str]) -> str:
    """`name`, or name_2, name_3, ... if `taken` (lower case) has it; adds it there."""
    unique, number = name, 1
    while unique.lower() in taken:
        number += 1
        unique = "%s_%d" % (name, number)
    taken.add(unique.lower())
    return unique


def safe_name(text: str) -> str:
    """A file or folder name made of any text: no separators, never `.` or `..`."""
    name = re.sub(r"[^\w.-]+", "_", text).strip(".")
    return name[:100] or "_"


def encode(suffix: str, image: np.ndarray) -> Optional[np.ndarray]:
    """File content of an image, None if this type cannot hold it."""
    try:
        ok, data = cv2.imencode(suffix, image)
    except cv2.error:
        return None
    return data if ok else None


def write_bytes(path: Path, data: Optional[np.ndarray]) -> None:
    """Write encoded data whole; any file name, any platform."""
    if data is None:
        raise InputError("%s: OpenCV cannot encode this image" % path)
    with atomic_path(path) as tmp:
        data.tofile(str(tmp))


def write_image(path: Path, image: np.ndarray) -> None:
    """Encode by suffix and write whole. Raises InputError if the type cannot hold the image."""
    write_bytes(path, encode(path.suffix, image))
