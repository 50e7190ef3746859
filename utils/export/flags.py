"""The flags that models/export_INT8.py and models/export_TRT.py share."""

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
