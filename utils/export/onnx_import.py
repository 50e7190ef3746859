"""ONNX of another exporter -> X-imported.onnx with our own raw output, and NMS if asked for.

import_onnx(ImportConfig("yolo11n-pose.onnx", end2end=True, nms="static"))
"""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, List, NamedTuple, Optional, Tuple

import numpy as np

from utils.errors import InputError, one_line, warn
from utils.export.embedded_nms import check_nms, describe_nms, nms_settings, put_nms
from utils.export.onnx_check import (
    TOLERANCE,
    Difference,
    check_batch,
    check_image,
    compare,
)
from utils.export.onnx_export import add_metadata, require, simplified, to_fp16
from utils.files import atomic_path, check_output
from utils.graph.fp16 import is_fp16
from utils.graph.layout import OPSETS, tidy, to_our_output
from utils.graph.nodes import dims_of, opset_of
from utils.pose.layout import Layout
from utils.pose.letterbox import stride_multiple
from utils.pose.skeleton import skeleton_keys
from utils.quantization.adaptive_rounding import sample_images

if TYPE_CHECKING:
    from onnx import ModelProto

    from utils.runtime.backend import Backend

SUFFIX = "-imported"
USUAL_HW = (640, 640)  # of the comparison, where the file does not say its size
TENSORRT_85_OPSET = 17  # the newest that TensorRT 8.5 parses
# of the metadata, that stays: licence and origin of the weights are the exporter's to say
KEPT = ("license", "author", "description", "version", "date", "docs")


@dataclasses.dataclass(frozen=True)
class ImportConfig:
    """What `import_onnx` writes. Raises InputError for values that cannot be."""

    onnx: str  # with raw predictions, of another exporter
    half: bool = False  # FP16 weights, input and convolutions
    simplify: bool = False  # fold constants and merge nodes (onnxslim)
    check_image: str = ""  # of the comparison [the first of data/images]
    end2end: bool = False  # embed NMS
    # With end2end; None: the default of Nms
    nms: Optional[str] = None  # efficientnms or static
    topk_all: Optional[int] = None  # poses kept an image
    iou_thres: Optional[float] = None
    conf_thres: Optional[float] = None
    nms_candidates: Optional[int] = None  # static form: boxes that take part
    nms_steps: Optional[int] = None  # static form: longest chain of boxes that is resolved

    def __post_init__(self) -> None:
        if Path(self.onnx).suffix.lower() != ".onnx":
            raise InputError("`onnx` %s: expected an .onnx file" % self.onnx)
        check_nms(self)

    @property
    def target(self) -> Path:
        """X.onnx -> X-imported.onnx or X-imported-NMS.onnx beside it."""
        path = Path(self.onnx)
        return path.with_name(path.stem + SUFFIX + ("-NMS" if self.end2end else "") + ".onnx")


def import_onnx(config: ImportConfig) -> Path:
    """Write the file and compare it; its path.

    Raises InputError for a file in no layout known here, for one with NMS inside, and if the file
    written computes something else: it is not kept, and an older one stays.
    """
    for package in ("onnx", "onnxruntime"):
        require(package)
    import onnx

    image = check_image(config.check_image)
    check_output(config.target)
    source = read_source(config.onnx)
    model, layout, path = source.model, source.layout, config.target
    if config.simplify:
        model = simplified(model)
    pairs = source_pairs(source, image)
    to_our_output(model, layout, source.rows)
    if config.half and not is_fp16(model):
        to_fp16(model, rounding_images(config, source))
    describe_model(model, source)
    nms, poses = None, 0
    replaced = path.exists()
    with atomic_path(path) as tmp:
        onnx.checker.check_model(model)
        onnx.save(model, str(tmp))
        checks = [verify(tmp, wanted, images, layout=layout, half=config.half)
                  for images, wanted in pairs]  # fmt: skip
        if config.end2end:
            batches = [images for images, _ in pairs]
            nms, poses = put_nms(model, tmp, layout.nc, nms=nms_settings(config), batches=batches)
    if replaced:
        print("an earlier %s was replaced" % path)
    print(
        "%s: %s; %d nodes, opset %d, input %s, %s weights, %.1f MB"
        % (
            path,
            layout,
            len(model.graph.node),
            opset_of(model),
            "x".join(map(str, dims_of(model.graph.input[0]))),
            "FP16" if is_fp16(model) else "FP32",
            path.stat().st_size / 1e6,
        )
    )
    print(describe(max(checks, key=lambda check: (check.conf, check.px))))
    if nms is not None:
        print(describe_nms(nms, poses))
    if opset_of(model) > TENSORRT_85_OPSET:
        warn(
            "%s has opset %d, and TensorRT 8.5 parses up to %d; for that export the original "
            "with opset 13 to %d"
            % (path.name, opset_of(model), TENSORRT_85_OPSET, TENSORRT_85_OPSET)
        )
    return path


def rounding_images(config: ImportConfig, source: "ForeignModel") -> List[np.ndarray]:
    """Images on which the errors of FP16 weights shall cancel; none: round to the nearest.

    Of a static batch nothing can be looked at one by one.
    """
    if source.backend.batch not in (None, 1):
        print("weights are rounded to the nearest FP16: the batch is fixed")
        return []
    print("rounding the weights so that errors cancel, a minute or two", flush=True)
    return sample_images(source.hw, [config.check_image] if config.check_image else [])


class ForeignModel(NamedTuple):
    """A file of another exporter."""

    model: "ModelProto"  # onnx.ModelProto, tidy
    backend: "Backend"  # of the file as it is
    layout: Layout
    rows: Optional[int]  # predictions of an image, None where dynamic
    hw: Tuple[int, int]  # (height, width) px of the comparison


def read_source(path: str) -> ForeignModel:
    """Load and recognise a file.

    Raises InputError for one that is not there, no ONNX, in no known layout, ours, or with NMS
    inside.
    """
    import onnx

    from utils.runtime.load import load_backend

    try:
        backend = load_backend(path, "cpu")
    except InputError as e:
        raise InputError(str(e).replace("`weights`", "`onnx`", 1)) from e
    fault = "`onnx` %s: " % path
    model = onnx.load(path)
    properties = {entry.key for entry in model.metadata_props}
    if "nkpt" in properties:
        raise InputError(fault + "it has our own layout already; nothing to import")
    if backend.embedded_nms is not None:
        raise InputError(
            fault + "it has NMS inside; export it without (nms=False, end2end=False), or use it "
            "as it is: detect and test read it in place"
        )
    opset = opset_of(model)
    if not OPSETS[0] <= opset <= OPSETS[1]:
        raise InputError(
            fault + "opset %d, expected %d to %d; export the original again" % (opset, *OPSETS)
        )
    try:
        tidy(model)
        onnx.checker.check_model(model)
    except InputError as e:
        raise InputError(fault + str(e)) from e
    except Exception as e:  # onnx's errors share no base class but Exception
        raise InputError(fault + "not a valid ONNX (%s)" % one_line(e, 150)) from e
    layout = backend.layout or Layout(backend.nc, backend.nkpt)
    hw = backend.static_hw or backend.imgsz or stride_multiple(USUAL_HW, backend.stride)
    dims = dims_of(model.graph.output[0])
    rows = dims[2] if layout.turned else dims[1]
    return ForeignModel(model, backend, layout, rows if isinstance(rows, int) else None, hw)


def source_pairs(source: ForeignModel, image: np.ndarray) -> List[Tuple[np.ndarray, np.ndarray]]:
    """(batch, the original's predictions in our layout) pairs that the file is compared on.

    Of a dynamic file a second one, of another size and batch. Raises InputError if it cannot run.
    """
    backend = source.backend
    sizes = [(source.hw, backend.batch or 1)]
    if None in backend.input_shape:
        hw = (source.hw[0] + backend.stride, source.hw[1])
        sizes.append((backend.static_hw or hw, backend.batch or 2))
    pairs = []
    for hw, count in sizes:
        images = check_batch(image, hw, count)
        try:
            pairs.append((images, np.asarray(backend(images), np.float32)))
        except InputError:
            raise
        except Exception as e:  # onnxruntime's exceptions share no base class but Exception
            raise InputError(
                "`onnx`: ONNX Runtime cannot run it at %dx3x%dx%d (%s)" % (count, *hw, one_line(e))
            ) from e
    return pairs


def describe_model(model: "ModelProto", source: ForeignModel) -> None:
    """Our metadata in place of the exporter's; what it says of origin and licence stays."""
    backend = source.backend
    kept = [(e.key, e.value) for e in model.metadata_props if e.key in KEPT]
    del model.metadata_props[:]
    for key, value in kept:
        entry = model.metadata_props.add()
        entry.key, entry.value = key, value
    values: Dict[str, Any] = {
        "task": "pose",
        "names": list(backend.names),
        "nc": backend.nc,
        "nkpt": backend.nkpt,
        "stride": backend.stride,
        "imgsz": list(source.hw),
        **skeleton_keys(backend.skeleton),
    }
    if not source.layout.objectness:
        values["objectness"] = False  # column 4 is 1 and says nothing
    add_metadata(model, values)


def verify(
    path: Path, wanted: np.ndarray, images: np.ndarray, *, layout: Layout, half: bool
) -> Difference:
    """Run the file written. Raises InputError if it differs from the original."""
    from utils.runtime.onnx_backend import OnnxBackend

    found = OnnxBackend(path, gpu=-1)(images)
    difference = compare(np.asarray(found), wanted, layout.nc)
    limit = TOLERANCE[half]
    if difference.conf > limit.conf or difference.rel_px > limit.px:
        raise InputError(
            "the file written differs from the original (confidence %.2g, limit %.2g; points %.2g "
            "of the box, limit %.2g); it was not kept"
            % (difference.conf, limit.conf, difference.rel_px, limit.px)
        )
    return difference


def describe(difference: Difference) -> str:
    """The line about the comparison."""
    if difference.conf == difference.px == 0:
        return "predictions of a real image: the original's, bit for bit (%d likely rows)" % (
            difference.rows
        )
    return (
        "against the original on a real image: confidences within %.1e, points within %.1e px "
        "(%d likely rows)" % (difference.conf, difference.px, difference.rows)
    )
