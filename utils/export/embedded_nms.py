"""NMS behind the raw output of an exported ONNX, compared with NMS on the host."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, List, Optional, Protocol, Tuple

import numpy as np

from utils.errors import InputError, warn
from utils.export.onnx_export import add_metadata
from utils.graph.nms_forms import MAX_TOPK, Nms
from utils.words import counted

if TYPE_CHECKING:
    from onnx import ModelProto

SPARE = 64  # candidates more than boxes above the threshold, which rounding may add to
PLUGIN_MIN_CONF = 0.01  # NVIDIA's advice for EfficientNMS

NMS_PARAMETERS = {
    "nms": "form",
    "topk_all": "topk",
    "iou_thres": "iou_thres",
    "conf_thres": "conf_thres",
    "nms_candidates": "candidates",
    "nms_steps": "steps",
}  # of ExportConfig and ImportConfig -> field of Nms; the defaults are those of Nms


class WithNms(Protocol):
    """What ExportConfig and ImportConfig have in common.

    Both name the fields: in Python 3.8 no base class can add them behind one without a default.
    """

    @property
    def end2end(self) -> bool: ...

    @property
    def nms_candidates(self) -> Optional[int]: ...

    @property
    def nms_steps(self) -> Optional[int]: ...


def nms_settings(config: WithNms) -> Nms:
    """The NMS that an ExportConfig or ImportConfig asks for. Raises InputError."""
    given = {field: getattr(config, name) for name, field in NMS_PARAMETERS.items()}
    return Nms(**{k: v for k, v in given.items() if v is not None}).resolved()


def check_nms(config: WithNms) -> None:
    """Raise InputError for parameters of NMS that do not go together, warn of a slow choice."""
    nms = nms_settings(config)
    if not config.end2end:
        given = [name for name in NMS_PARAMETERS if getattr(config, name) is not None]
        if given:
            raise InputError("`%s` goes with `end2end`" % given[0])
    elif nms.form == "efficientnms" and (config.nms_candidates or config.nms_steps):
        raise InputError("`nms_candidates` and `nms_steps` go with `nms` static")
    elif nms.form == "efficientnms" and nms.conf_thres < PLUGIN_MIN_CONF:
        warn(
            "`conf_thres` %g: below %g TensorRT's plugin sorts every box of the image and "
            "looks at the best 4096; it is slow there" % (nms.conf_thres, PLUGIN_MIN_CONF)
        )


def put_nms(
    graph: "ModelProto", path: Path, nc: int, *, nms: Nms, batches: List[np.ndarray]
) -> Tuple[Nms, int]:
    """Put NMS behind the raw output of an exported model, write it to `path`, and prove it.

    Returns the settings as applied and the number of poses found in `batches`. Raises InputError
    if the settings do not fit the model, or the NMS finds other poses than utils/pose/nms.py.
    """
    import onnx

    from utils.graph.nms import add_nms, swap_efficientnms

    embedded_nms = {"conf_thres": nms.conf_thres, "iou_thres": nms.iou_thres, "topk": nms.topk}
    add_metadata(graph, {**embedded_nms, "nms": nms.form})
    both = onnx.ModelProto()
    both.CopyFrom(graph)
    nms = add_nms(graph, nc, nms)
    add_nms(both, nc, nms, keep_raw=True)
    if nms.form == "efficientnms":  # the plugin knows no longest chain, and takes 4096 boxes
        most = max(_passing(path, images, nc, conf_thres=nms.conf_thres) for images in batches)
        candidates = max(nms.topk, min(most + SPARE, MAX_TOPK))
        swap_efficientnms(both, candidates, steps=255)
    onnx.save(both, str(path))
    poses = sum(verify_nms(path, images, nc, nms=nms) for images in batches)
    onnx.checker.check_model(graph)
    onnx.save(graph, str(path))
    _run(path, batches[0])
    return nms, poses


def _passing(path: Path, images: np.ndarray, nc: int, *, conf_thres: float) -> int:
    """The most boxes above the threshold in an image, of a file with raw output."""
    from utils.runtime.onnx_backend import OnnxBackend

    raw = np.asarray(OnnxBackend(path, gpu=-1)(images))
    scores = raw[..., 4] * raw[..., 5 : 5 + nc].max(-1)
    return int((scores > conf_thres).sum(1).max())


def _run(path: Path, images: np.ndarray, raw: bool = False) -> Tuple[Any, np.ndarray]:
    """Detections and, if the file has it too, the raw output."""
    from utils.pose.detections import Detections
    from utils.runtime.onnx_backend import OnnxBackend

    backend = OnnxBackend(path, gpu=-1)
    if not raw:
        return backend(images), np.zeros(0)
    names = [*Detections._fields, "output"]
    *found, output = backend.session.run(names, {"input": images.astype(backend.dtype)})
    return Detections(*found), output


def verify_nms(path: Path, images: np.ndarray, nc: int, *, nms: Nms) -> int:
    """Compare embedded NMS with utils/pose/nms.py, on the raw output of the same inference.

    EfficientNMS runs as its static form here. Returns the number of poses. Raises InputError if
    they differ.
    """
    from utils.pose.nms import detections_to_poses, raw_to_poses

    found, raw = _run(path, images, raw=True)
    expected = raw_to_poses(raw, nc, nms.conf_thres, iou_thres=nms.iou_thres, max_det=nms.topk)
    inner = detections_to_poses(found, max_det=nms.topk)
    for image, (inside, outside) in enumerate(zip(inner, expected)):
        if not all(np.array_equal(a, b) for a, b in zip(inside, outside)):
            raise InputError(
                "embedded NMS found other poses than NMS outside (%d against %d in image "
                "%d); the file was not kept. `nms` static takes more `nms_candidates`, `nms_steps`"
                % (inside.count, outside.count, image)
            )
    return sum(poses.count for poses in expected)


def describe_nms(nms: Nms, poses: int) -> str:
    """What is in the model, and what the check found."""
    text = "embedded NMS (%s): conf %g, iou %g, at most %d poses" % nms[:4]
    if nms.form == "static":
        text += ", from the best %d boxes, chains up to %d" % (nms.candidates, nms.steps)
    return text + "; finds what NMS outside finds (%s)" % counted(poses, "pose")
