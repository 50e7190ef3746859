"""Write what DeepStream or Triton need to run a model: configuration, parser, probe, repository.

    python models/export_deploy.py --onnx weights/x-NMS.onnx --deepstream ds
    python models/export_deploy.py --onnx weights/x-NMS.onnx --engine weights/x-NMS-FP16.trt \\
        --deepstream ds --frame-size 720 1280
    python models/export_deploy.py --onnx weights/x.onnx --triton models_of_triton --name pose

Everything is read from the model; neither DeepStream nor Triton need be installed. See
docs/deploy.md.
"""

import argparse
import sys
from pathlib import Path

if not __package__:
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from utils import cli
from utils.export.deploy import DeployConfig, deploy


def get_args_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "export_deploy.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--onnx", required=True, help="ONNX of models/export_onnx.py")
    add("--engine", metavar="FILE", help="engine that models/export_TRT.py built of it, with its "
        "side file, for the machine that runs it [the server builds its own]")  # fmt: skip
    add("--deepstream", metavar="DIR", help="folder for DeepStream; needs a model with embedded "
        "NMS (--end2end)")  # fmt: skip
    add("--triton", metavar="DIR", help="model repository of Triton; the model is added to it")
    add("--frame-size", type=int, nargs=2, default=DeployConfig.frame_size, metavar="PX",
        help="with --deepstream: height and width of the stream muxer [1080 1920]")  # fmt: skip
    add("--int8", action="store_true", help="with --deepstream and no --engine: it builds an INT8 "
        "engine with the calibration cache [FP16]")  # fmt: skip
    add("--cache_dir", "--cache-dir", default=DeployConfig.cache_dir,
        help="calibration caches; X.cache of X.onnx is copied if it is there [caches]")  # fmt: skip
    add("--name", help="with --triton: name of the model in the repository [that of the file]")
    add("--max-batch", type=int, default=DeployConfig.max_batch, metavar="N",
        help="with --triton: images at a time, of a model that takes any number [8; of an engine: "
        "its own]")  # fmt: skip
    add("--instances", type=int, default=DeployConfig.instances, metavar="N",
        help="with --triton: how many of the model run at the same time [1]")  # fmt: skip
    add("--device", default=DeployConfig.device, help="GPU index; with --triton also cpu [0]")
    cli.add_overwrite(parser)
    return parser


def main(args: argparse.Namespace) -> None:
    deploy(cli.config_of(DeployConfig, args))


if __name__ == "__main__":
    cli.run(main, get_args_parser())
