"""X.pt -> X.onnx, compared with PyTorch on a real image.

export_checkpoint(ExportConfig("weights/x.pt", img_size=[832], simplify=True))
"""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, List, Optional, Sequence, Tuple

import numpy as np

from utils.device import available_memory
from utils.errors import InputError, check_limits
from utils.export.embedded_nms import check_nms, describe_nms, nms_settings, put_nms
from utils.export.onnx_check import (
    Difference,
    check_batch,
    check_image,
    reference_output,
    verify,
)
from utils.export.onnx_export import (
    DEFAULT_OPSET,
    OPSETS,
    export,
    output_path,
    require,
    torch_device,
)
from utils.export.pixel_input import put_pixels
from utils.files import atomic_path, check_output
from utils.graph.nms import Nms
from utils.pose import letterbox
from utils.runtime.backend import MAX_BATCH
from utils.runtime.predictor import DEFAULT_SIZE, warn_if_rounded

if TYPE_CHECKING:
    from models.yolo import Model

BYTES_A_PIXEL = 400  # of the input: PyTorch, the tracer and ONNX Runtime, s6; larger ones more


@dataclasses.dataclass(frozen=True)
class ExportConfig:
    """What `export_checkpoint` writes. Raises InputError for values that cannot be."""

    weights: str  # a .pt checkpoint
    # px, one number or height width, rounded up to the stride [that it was trained at, else 640]
    img_size: Optional[Sequence[int]] = None
    batch_size: int = 1  # of a static model
    device: str = "cpu"  # where PyTorch traces; the file is the same
    dynamic: bool = False  # any batch, height and width
    half: bool = False  # FP16 weights, input and convolutions
    uint8: bool = False  # the input is (B, H, W, 3) uint8 BGR
    round: Optional[str] = None  # with half: cancel or nearest [cancel]
    simplify: bool = False  # fold constants and merge nodes
    opset: int = DEFAULT_OPSET
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
        if Path(self.weights).suffix != ".pt":
            raise InputError("`weights` %s: expected a .pt checkpoint" % self.weights)
        if self.img_size is not None:
            letterbox.parse_size(self.img_size)
        check_limits(self, {"batch_size": (1, MAX_BATCH)})
        if self.dynamic and self.batch_size != 1:
            raise InputError("`batch_size` goes with a static model; `dynamic` takes any batch")
        if not OPSETS[0] <= self.opset <= OPSETS[1]:
            raise InputError(
                "`opset` %d: expected %d to %d (TensorRT 8.5 parses up to %d)"
                % ((self.opset,) + OPSETS + OPSETS[1:])
            )
        if self.round and not self.half:
            raise InputError("`round` goes with `half`")
        check_nms(self)

    @property
    def nms_settings(self) -> Nms:
        """The NMS that is asked for. Raises InputError."""
        return nms_settings(self)


def export_checkpoint(config: ExportConfig) -> Path:
    """Write the ONNX and compare it; the path.

    Raises InputError for what cannot be exported, and for a file that computes something else: it
    is not kept, and an older one stays.
    """
    image = check_image(config.check_image)
    for package in ("torch", "onnx", "onnxruntime"):
        require(package)
    device = torch_device(config.device)
    if config.img_size is not None:  # before the checkpoint is read
        check_memory(config, letterbox.parse_size(config.img_size))
    from models.checkpoint import load_checkpoint

    path = output_path(config.weights, config.dynamic, config.end2end, uint8=config.uint8)
    check_output(path)
    replaced = path.exists()
    checkpoint = load_checkpoint(config.weights)
    model, asked = checkpoint.model, checkpoint.trained_hw or (DEFAULT_SIZE, DEFAULT_SIZE)
    if config.img_size is not None:
        asked = letterbox.parse_size(config.img_size)
    net_hw = letterbox.stride_multiple(asked, model.max_stride)
    warn_if_rounded(asked, net_hw, model.max_stride)
    check_memory(config, net_hw)
    millions, nc = model.parameter_count() / 1e6, model.nc
    pairs = reference_pairs(config, model, image, net_hw=net_hw)
    model.fuse()
    nms, poses = None, 0
    with atomic_path(path) as tmp:
        graph = export(
            model,
            tmp,
            net_hw,
            batch=config.batch_size,
            dynamic=config.dynamic,
            half=config.half,
            opset=config.opset,
            simplify=config.simplify,
            device=device,
            images=rounding_images(config, net_hw),
        )
        checks = [verify(tmp, wanted, images, nc=nc, half=config.half) for images, wanted in pairs]
        if config.end2end:
            batches = [images for images, _ in pairs]
            nms, poses = put_nms(graph, tmp, nc, nms=config.nms_settings, batches=batches)
        if config.uint8:
            put_pixels(graph, tmp, half=config.half, batches=[images for images, _ in pairs])
    if replaced:
        print("an earlier %s was replaced" % path)
    facts = (path, millions, len(graph.graph.node), config.opset, describe_input(config, net_hw))
    size = path.stat().st_size / 1e6
    print("%s: %.1f M parameters, %d nodes, opset %d, input %s, %.1f MB" % (*facts, size))
    print(describe(checks[0]))
    if nms is not None:
        print(describe_nms(nms, poses))
    return path


def describe_input(config: ExportConfig, net_hw: Tuple[int, int]) -> str:
    """`1x3x640x640 FP32`, `dynamic FP16`."""
    order = "%dx%dx%dx3" if config.uint8 else "%dx3x%dx%d"
    shape = "dynamic" if config.dynamic else order % ((config.batch_size,) + net_hw)
    return shape + " " + ("uint8 BGR" if config.uint8 else "FP16" if config.half else "FP32")


def check_memory(config: ExportConfig, net_hw: Tuple[int, int]) -> None:
    """Raise InputError if tracing at this size needs more memory than is free."""
    height, width = net_hw
    needed, free = BYTES_A_PIXEL * config.batch_size * height * width, available_memory()
    if free is not None and needed > free:
        raise InputError(
            "`img_size` %d %d and `batch_size` %d need about %.1f GB of memory, %.1f GB are free; "
            "choose less, or export with `dynamic`"
            % (height, width, config.batch_size, needed / 1e9, free / 1e9)
        )


def reference_pairs(
    config: ExportConfig, model: "Model", image: np.ndarray, *, net_hw: Tuple[int, int]
) -> List[Tuple[np.ndarray, np.ndarray]]:
    """(batch, what PyTorch makes of it) pairs that the file is compared on.

    The network is the one that was trained: fuse() is part of what is compared.
    """
    batch = check_batch(image, net_hw, config.batch_size)
    pairs = [(batch, reference_output(model, batch))]
    if config.dynamic:  # a batch and a size that were not traced
        other = check_batch(image, (net_hw[0] + model.max_stride, net_hw[1]), 2)
        pairs.append((other, reference_output(model, other)))
    return pairs


def rounding_images(config: ExportConfig, net_hw: Tuple[int, int]) -> List[np.ndarray]:
    """Images on which the errors of FP16 weights shall cancel; none: round to the nearest."""
    if not config.half or config.round == "nearest":
        return []
    from utils.quantization.adaptive_rounding import sample_images

    print("rounding the weights so that errors cancel, a minute or two", flush=True)
    return sample_images(net_hw, [config.check_image] if config.check_image else [])


def describe(difference: Difference) -> str:
    """The line about the comparison."""
    return (
        "ONNX Runtime against PyTorch FP32 on a real image: confidences within %.1e, points "
        "within %.1e px (%d likely rows)" % (difference.conf, difference.px, difference.rows)
    )
