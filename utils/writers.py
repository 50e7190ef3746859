"""Results of detect on disk: annotated images and videos, label txt, JSON, crops."""

import json
import re
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence

import cv2
import numpy as np

from utils.errors import InputError
from utils.files import atomic_path
from utils.poses import Poses, xyxy_to_cxcywh, xyxy_to_xywh
from utils.sources import Frame

KEPT_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")


class ResultWriter:
    """Writes the results of one run into `folder`.

    Files: `<name>.jpg` or `<name>.mp4` as the source's, `labels/<name>.txt` (video frames:
    `<name>_<frame>.txt`, from 1), `crops/<class>/<name>_<n>.jpg`, `predictions.json` (COCO
    keypoint results). Two sources of one name get `<name>` and `<name>_2`.
    """

    def __init__(
        self,
        folder: Path,
        names: Sequence[str],
        images: bool = True,
        txt: bool = False,
        txt_conf: bool = False,
        json_rows: bool = False,
        crops: bool = False,
    ):
        self.folder, self.names = folder, list(names)
        self.images, self.txt, self.txt_conf = images, txt, txt_conf
        self.json_rows, self.crops = json_rows, crops
        self._stems: Dict[str, str] = {}  # source path -> name of its results
        self._videos: Dict[str, VideoFile] = {}
        self._rows: List[Dict[str, Any]] = []
        self._image_count = 0

    def write_data(self, frame: Frame, poses: Poses) -> None:
        """Labels, crops and JSON rows; before anything is drawn into `frame.image`."""
        stem = self._stem(frame.path)
        label = stem if frame.kind == "image" else "%s_%d" % (stem, frame.index + 1)
        if self.txt:
            target = self.folder / "labels" / (label + ".txt")
            with atomic_path(target) as tmp:
                tmp.write_text(
                    label_text(poses, frame.image.shape[:2], self.txt_conf), encoding="utf-8"
                )
        if self.crops:
            self._write_crops(frame.image, label, poses)
        if self.json_rows:
            self._rows += coco_rows(poses, frame, self._image_id(frame))
        self._image_count += 1

    def write_image(self, frame: Frame, image: np.ndarray) -> None:
        """The annotated picture of a frame: an image file, or the next frame of a video."""
        if not self.images:
            return
        stem = self._stem(frame.path)
        if frame.kind == "image":
            suffix = Path(frame.path).suffix.lower()
            suffix = suffix if suffix in KEPT_SUFFIXES else ".jpg"
            write_image(self.folder / (stem + suffix), image)
            return
        video = self._videos.get(frame.path)
        if video is None:
            self._finish_videos(keep_streams=True)  # files come one after the other
            hw = (image.shape[0], image.shape[1])
            video = VideoFile(self.folder / (stem + ".mp4"), frame.fps, hw, frame.kind == "stream")
            self._videos[frame.path] = video
        video.write(image)

    def close(self) -> None:
        """Finish videos and the JSON file; what was written so far is kept."""
        self._finish_videos()
        if self.json_rows:
            with atomic_path(self.folder / "predictions.json") as tmp:
                tmp.write_text(json.dumps(self._rows), encoding="utf-8")

    def _finish_videos(self, keep_streams: bool = False) -> None:
        for path, video in list(self._videos.items()):
            if not (keep_streams and video.is_stream):
                video.close()
                del self._videos[path]

    def _stem(self, path: str) -> str:
        if path not in self._stems:
            is_address = "://" in path or path.isdigit()
            stem = re.sub(r"[^\w.-]+", "_", path) if is_address else Path(path).stem
            taken = {s.lower() for s in self._stems.values()}
            unique, number = stem, 1
            while unique.lower() in taken:
                number += 1
                unique = "%s_%d" % (stem, number)
            self._stems[path] = unique
        return self._stems[path]

    def _image_id(self, frame: Frame) -> int:
        """The number in a COCO file name such as 000000000139.jpg, else a running number."""
        stem = Path(frame.path).stem
        return int(stem) if frame.kind == "image" and stem.isdigit() else self._image_count

    def _write_crops(self, image: np.ndarray, label: str, poses: Poses) -> None:
        for i in range(poses.count):
            x1, y1, x2, y2 = np.rint(poses.boxes[i]).astype(int)
            crop = image[y1 : max(y2, y1 + 1), x1 : max(x2, x1 + 1)]
            if crop.size:
                name = self.names[int(poses.classes[i])]
                write_image(self.folder / "crops" / name / ("%s_%d.jpg" % (label, i + 1)), crop)


def label_text(poses: Poses, image_hw: Sequence[int], with_conf: bool) -> str:
    """Label lines: class, cx cy w h, K x (x y conf), all but class and conf over image size.

    With `with_conf` the score of the pose is one more column at the end. Nobody: empty text.
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
        lines.append("%d " % poses.classes[i] + " ".join("%.6g" % v for v in values) + "\n")
    return "".join(lines)


def coco_rows(poses: Poses, frame: Frame, image_id: int) -> List[Dict[str, Any]]:
    """COCO keypoint result rows, with `file_name` and (videos) `frame` from 0 added.

    The third value of a keypoint is its confidence.
    """
    boxes = xyxy_to_xywh(poses.boxes)
    rows = []
    for i in range(poses.count):
        row: Dict[str, Any] = {
            "image_id": image_id,
            "category_id": int(poses.classes[i]) + 1,
            "bbox": [round(float(v), 3) for v in boxes[i]],
            "score": round(float(poses.scores[i]), 5),
            "keypoints": [round(float(v), 3) for v in poses.keypoints[i].ravel()],
            "file_name": Path(frame.path).name if "://" not in frame.path else frame.path,
        }
        if frame.kind != "image":
            row["frame"] = frame.index
        rows.append(row)
    return rows


def write_image(path: Path, image: np.ndarray) -> None:
    """Encode by suffix and write whole; any file name, any platform."""
    ok, data = cv2.imencode(path.suffix, image)
    if not ok:
        raise InputError("%s: OpenCV cannot write this image type" % path)
    with atomic_path(path) as tmp:
        data.tofile(str(tmp))


class VideoFile:
    """An .mp4 that gets its name only when it is complete and playable."""

    def __init__(self, path: Path, fps: float, hw: Sequence[int], is_stream: bool):
        self.path, self.is_stream = path, is_stream
        self._hw = (hw[0], hw[1])
        self._context = atomic_path(path)
        tmp = self._context.__enter__()
        fourcc = cv2.VideoWriter_fourcc(*"mp4v")
        self._writer: Optional[cv2.VideoWriter] = cv2.VideoWriter(
            str(tmp), fourcc, fps, (self._hw[1], self._hw[0])
        )
        if not self._writer.isOpened():
            raise InputError("%s: OpenCV cannot write mp4 video here" % path)

    def write(self, image: np.ndarray) -> None:
        """Append a frame; one of another size is fitted to the first."""
        assert self._writer is not None
        if image.shape[:2] != self._hw:
            image = cv2.resize(image, (self._hw[1], self._hw[0]))
        self._writer.write(image)

    def close(self) -> None:
        if self._writer is not None:
            self._writer.release()
            self._writer = None
            self._context.__exit__(None, None, None)
