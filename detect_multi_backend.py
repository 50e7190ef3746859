"""Detect people and their keypoints in images, videos and streams, with any backend.

    python detect_multi_backend.py --weights weights/yolov5s6_pose.onnx --source data/images
    python detect_multi_backend.py --weights x.pt --source street.mp4 --device 0
    python detect_multi_backend.py --weights x.onnx --source street.mp4 --track --save-mot
    python detect_multi_backend.py --weights x.onnx --source 0 --view-img              # webcam
    python detect_multi_backend.py --weights x.onnx --source rtsp://host/stream
    python detect_multi_backend.py --weights x.onnx --source list.txt --save-txt --save-json

Results: runs/detect/exp, exp2, ...
"""

import argparse

from utils import cli
from utils.runtime.detect import DetectConfig, detect


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
    add("--batch-size", type=int, help="images of files at a time; of live streams at most as many "
        "as there are streams [that of a model of fixed batch, else 1]")  # fmt: skip
    add("--max-wait", type=float, default=10, metavar="MS", help="with several live streams and a "
        "larger batch: how long a frame waits for those of the others [10]")  # fmt: skip
    add("--square", action="store_true", help="pad to the full size also where the model takes "
        "a rectangle that fits the image; for comparing with a static export")  # fmt: skip
    add("--conf-thres", type=float, help="score threshold, 0..1 [0.25; with embedded NMS "
        "its own, which only a higher one changes]")  # fmt: skip
    add("--iou-thres", type=float, help="NMS IoU threshold, 0..1 [0.45; with embedded NMS "
        "its own]")  # fmt: skip
    add("--max-det", type=int, default=300, help="detections an image at most [300]")
    add("--device", default="", help="cpu or a GPU index [a GPU if this runtime has one]")
    add("--half", action="store_true", help="FP16 inference of a .pt on a GPU")
    add("--kpt-label", action="store_true", help="accepted for old command lines; always on")
    add("--reconnect", type=float, default=DetectConfig.reconnect, metavar="SECONDS",
        help="a stream that stays away for longer is an error, 0: wait for ever [10]")  # fmt: skip
    add("--classes", nargs="+", type=int, help="keep only these class indices")
    add("--agnostic-nms", action="store_true", help="NMS across classes")
    add("--augment", action="store_true", help="three views of each image, merged (slower)")
    add("--view-img", action="store_true", help="show results in a window; q or Esc ends")
    add("--save-txt", action="store_true", help="labels/*.txt")
    add("--save-conf", action="store_true", help="with --save-txt: score as the last column")
    add("--save-json", action="store_true", help="predictions.json, COCO keypoint results")
    add("--save-crop", action="store_true", help="crops/<class>/*.jpg")
    add("--nosave", action="store_true", help="no annotated images or videos")
    add("--codec", default="auto", help="of videos: h264, which browsers play, needs PyAV (pip "
        "install av); mp4v; auto: h264 where PyAV is installed [auto]")  # fmt: skip
    add("--project", default="runs/detect", help="results go to project/name [runs/detect]")
    add("--name", default="exp", help="results go to project/name [exp]")
    add("--exist-ok", action="store_true", help="reuse project/name instead of a new number")
    add("--line-thickness", type=int, default=0, help="line width, px [0: by image size]")
    add("--hide-labels", action="store_true", help="draw no text")
    add("--hide-conf", action="store_true", help="draw no scores")
    add("--kpt-thres", type=float, default=0.5, help="draw keypoints above this confidence [0.5]")
    _add_tracking(parser)
    cli.add_overwrite(parser)
    return parser


def _add_tracking(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--track", action="store_true", help="IDs that persist over the frames of a video or "
        "stream; only persons with an ID are in the results")  # fmt: skip
    add("--track-low-thres", type=float, default=0.1, metavar="SCORE", help="with --track: scores "
        "between this one and --conf-thres continue tracks but start none, 0..1 [0.1]")  # fmt: skip
    add("--track-lost", type=int, default=30, metavar="N", help="with --track: frames after which "
        "a person who is not found is forgotten [30]")  # fmt: skip
    add("--track-oks", type=float, default=0.0, metavar="SHARE", help="with --track: share of the "
        "keypoints (OKS) in the similarity, 0..1; the rest is boxes (IoU) [0]")  # fmt: skip
    add("--smooth", action="store_true", help="with --track: take the jitter out of the keypoints "
        "(One-Euro filter)")  # fmt: skip
    add("--smooth-cutoff", type=float, default=1.0, metavar="HZ", help="cutoff frequency of a "
        "point at rest; lower: less jitter, more lag [1]")  # fmt: skip
    add("--smooth-beta", type=float, default=10.0, metavar="B", help="Hz more for each body length "
        "a second; higher: less lag [10]")  # fmt: skip
    add("--save-mot", action="store_true", help="with --track: mot/*.txt in MOTChallenge format")


def main(args: argparse.Namespace) -> None:
    detect(cli.config_of(DetectConfig, args))


if __name__ == "__main__":
    cli.run(main, get_args_parser())
