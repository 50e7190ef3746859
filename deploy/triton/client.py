"""Poses of images from a Triton server, with the letterbox and the NMS of the toolkit.

    python deploy/triton/client.py --url localhost:8000 --model yolov5s6_pose --images data/images
    python deploy/triton/client.py --model yolov5s6_pose --images data/images --output runs/triton
    python deploy/triton/client.py --model yolov5s6_pose --images frames --track --output tracks

The model comes from models/export_deploy.py --triton. Needs pip install tritonclient[http].
TritonBackend works wherever the toolkit takes a backend: Predictor(TritonBackend(url, model)).
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

if not __package__:
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np

from utils import cli
from utils.dataset.images import read_image
from utils.dataset.labels import list_images
from utils.errors import InputError, one_line
from utils.pose.drawing import draw_poses
from utils.runtime.backend import Backend
from utils.runtime.metadata import identify
from utils.runtime.predictor import Predictor
from utils.runtime.tracks import thresholds
from utils.runtime.writers import write_image
from utils.tracking.tracker import Tracker, TrackerConfig


class TritonBackend(Backend):
    """A model on a Triton server, over HTTP."""

    def __init__(self, url: str, model: str):
        try:
            from tritonclient import http
        except (ImportError, RuntimeError) as e:
            raise InputError("the client needs pip install tritonclient[http] (%s)" % e) from e
        self._http, self._model = http, model
        try:
            self._client = http.InferenceServerClient(url)
            config = self._client.get_model_config(model)
        except Exception as e:  # gevent's errors and tritonclient's share no base class
            raise InputError(
                "`url` %s: no model %s there (%s)" % (url, model, one_line(e, 150))
            ) from e
        most = config.get("max_batch_size", 0)

        def dims(tensor: Any) -> list:
            sizes = [None if int(d) < 0 else int(d) for d in tensor["dims"]]
            return [None, *sizes] if most else sizes

        (entry,) = config["input"]
        self._input, self._type = entry["name"], entry["data_type"][len("TYPE_") :]
        self.input_shape, self.max_batch = tuple(dims(entry)), most or None  # type: ignore
        self.dtype = np.dtype(np.float16 if self._type == "FP16" else np.float32)
        self.precision, self.on_gpu = self._type, True
        self.description = "Triton %s, %s" % (url, model)
        metadata = json.loads(config["parameters"]["metadata"]["string_value"])
        outputs = {output["name"]: dims(output) for output in config["output"]}
        self._set_identity(identify(metadata, outputs))

    def __call__(self, images: np.ndarray) -> Any:
        self._check_input(images)
        given = self._http.InferInput(self._input, list(images.shape), self._type)
        given.set_data_from_numpy(images.astype(self.dtype, copy=False))
        wanted = [self._http.InferRequestedOutput(name) for name in self._outputs]
        try:
            found = self._client.infer(self._model, [given], outputs=wanted)
        except Exception as e:  # as above: the server ended, or refuses these images
            raise InputError("`url`: Triton did not answer (%s)" % one_line(e, 150)) from e
        return self._read([found.as_numpy(name) for name in self._outputs])


def get_args_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "client.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--url", default="localhost:8000", help="host and HTTP port of Triton [localhost:8000]")
    add("--model", required=True, help="name in the model repository")
    add("--images", default="data/images", help="folder or list file [data/images]")
    add("--conf-thres", type=float, help="score threshold, 0..1 [0.25, or that of the model]")
    add("--track", action="store_true", help="the images are frames of one video, in the order of "
        "their names or of the list: IDs that persist over them")  # fmt: skip
    add("--output", metavar="DIR", help="write the images with their poses there")
    return parser


def main(args: argparse.Namespace) -> None:
    backend = TritonBackend(args.url, args.model)
    conf_thres, tracker = args.conf_thres, None
    if args.track:
        high, conf_thres = thresholds(backend, args.conf_thres, TrackerConfig.low_thres)
        tracker = Tracker(TrackerConfig(high, conf_thres), backend.skeleton.sigmas)
    predictor = Predictor(backend, conf_thres=conf_thres)
    for path in list_images(args.images):
        image = read_image(path)
        (poses,), ids = predictor([image]), None
        text = "persons"
        if tracker is not None:
            poses, ids = tracker.update(poses)
            text += ", IDs " + (" ".join(map(str, ids)) or "none")
        print("%s: %d %s" % (path, poses.count, text))
        if args.output:
            draw_poses(image, poses, backend.names, skel=backend.skeleton, ids=ids)
            write_image(Path(args.output) / (Path(path).stem + ".jpg"), image)


if __name__ == "__main__":
    cli.run(main, get_args_parser())
