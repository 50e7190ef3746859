"""The flags that scripts of models/ share: calibration, embedded NMS."""

import argparse
from typing import Any

from utils.export.calibration import CalibrationConfig


def add_calibration(parser: argparse.ArgumentParser, method: str) -> None:
    """Those of CalibrationConfig. Args: method: help of --calib_method."""

    def add(flag: str, **settings: Any) -> None:
        parser.add_argument(flag, flag.replace("_", "-"), **settings)

    default = CalibrationConfig
    add("--calib_path", default=default.calib_path, metavar="DIR",
        help="calibration images: a folder with its subfolders, or a list file "
        "[data/custom_kpts/images]")  # fmt: skip
    add("--calib_num", type=int, default=default.calib_num,
        help="how many of them, chosen at random [1024]")  # fmt: skip
    add("--calib_batch", type=int, default=default.calib_batch,
        help="images at a time [128]; a static ONNX has its own batch, and all --calib_num images "
        "are used nevertheless")  # fmt: skip
    add("--calib_imgsz", type=int, nargs="+", default=default.calib_imgsz, metavar="PX",
        help="size of the calibration images, one number or height width [832]; a static ONNX "
        "has its own")  # fmt: skip
    add("--calib_method", default=default.calib_method, metavar="METHOD", help=method)
    add("--calib_letterbox", action="store_true", default=default.calib_letterbox,
        help="letterbox the calibration images, as detect and test do [default]")  # fmt: skip
    add("--calib_stretch", dest="calib_letterbox", action="store_false",
        help="squeeze the calibration images to the full size instead")  # fmt: skip
    add("--calib_seed", type=int, default=default.calib_seed, help="which images are chosen [0]")
    add("--cache_dir", default=default.cache_dir, help="folder of <onnx stem>.cache [caches]")
    parser.add_argument("--keep", nargs="*", default=default.keep, metavar="NAME", help="further "
        "convolutions that stay in floating point, by parts of their names")  # fmt: skip
    parser.add_argument("--recalibrate", action="store_true",
        help="calibrate also where a cache is there")  # fmt: skip


def add_nms(parser: argparse.ArgumentParser) -> None:
    """Those of embedded NMS, see utils/export/embedded_nms.py."""
    add = parser.add_argument
    add("--end2end", action="store_true", help="put NMS into the model")
    # None: not given, so that without --end2end they can be refused rather than ignored
    add("--nms", metavar="FORM",
        help="with --end2end: efficientnms, TensorRT's plugin (8.5 to 10.15), or static, standard "
        "ops for every runtime [efficientnms]")  # fmt: skip
    add("--topk-all", type=int, help="with --end2end: poses kept an image [100]")
    add("--iou-thres", type=float, help="with --end2end: NMS IoU threshold [0.45]")
    add("--conf-thres", type=float, help="with --end2end: score threshold [0.25]")
    add("--nms-candidates", type=int, metavar="N", help="with --nms static: boxes of "
        "the best scores that take part [512, from --conf-thres below 0.1 on 2048]")  # fmt: skip
    add("--nms-steps", type=int, metavar="N", help="with --nms static: longest chain "
        "of boxes that is resolved, odd [31]")  # fmt: skip
