"""Export a YOLO-Pose checkpoint to ONNX, and prove that the file computes the same.

    python models/export_onnx.py --weights weights/yolov5l6_pose.pt --img-size 832 --simplify
    python models/export_onnx.py --weights weights/yolov5l6_pose.pt --img-size 832 --batch-size 1 \
        --device 0 --simplify --half
    python models/export_onnx.py --weights weights/yolov5l6_pose.pt --dynamic
    python models/export_onnx.py --weights weights/yolov5l6_pose.pt --img-size 832 --simplify \
        --end2end --topk-all 100 --iou-thres 0.45 --conf-thres 0.5

X.pt becomes X.onnx (with --dynamic X-dynamic.onnx) beside it. Input `input` (B, 3, H, W) RGB 0..1;
output `output` (B, N, 5 + nc + 3K) float32: cx cy w h objectness, classes, x y conf a keypoint,
in network pixels, confidences after sigmoid. With --half weights, input and convolutions are FP16
and the decode stays FP32, because FP16 coordinates above 1024 px have steps of 1 px; weights are
rounded so that their errors cancel (utils/quantization/adaptive_rounding.py).

With --end2end NMS is in the model, X-NMS.onnx (X-dynamic-NMS.onnx): outputs num_dets, det_indices,
det_boxes, det_pose, det_scores, see utils/graph/nms.py and docs/nms.md.

After the export ONNX Runtime and PyTorch run on one real image; a file that differs is deleted.
A file with NMS inside must find what utils/pose/nms.py finds in the raw output.
"""

import argparse
import json
import sys
import warnings
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Sequence, Tuple

if not __package__:
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from utils import cli
from utils.errors import InputError
from utils.files import atomic_path
from utils.graph.nms import MAX_TOPK, Nms

ROOT = Path(__file__).resolve().parents[1]
DEFAULT_OPSET = 13  # the newest that every TensorRT from 8.2 to 11 and ONNX Runtime 1.10 parse
OPSETS = (12, 17)  # TensorRT 8.5 parses up to 17; the torch exporter used here from 12 on works
ROUND = ("cancel", "nearest")
SPARE = 64  # candidates more than boxes above the threshold, which rounding may add to
PLUGIN_MIN_CONF = 0.01  # NVIDIA's advice for EfficientNMS
NMS_FLAGS = {
    "nms": "form",
    "topk_all": "topk",
    "iou_thres": "iou_thres",
    "conf_thres": "conf_thres",
    "nms_candidates": "candidates",
    "nms_steps": "steps",
}  # attribute of the flag -> field of Nms; the defaults are those of Nms
DYNAMIC_AXES = {
    "input": {0: "batch", 2: "height", 3: "width"},
    "output": {0: "batch", 1: "predictions"},
}


class Tolerance(NamedTuple):
    """How far ONNX Runtime may be from PyTorch in FP32, on the check image."""

    conf: float  # any confidence of any row
    px: float  # any coordinate, relative to max(box size, 64 px), rows with conf > MIN_CONF


# FP32 differs by summation order only. FP16 has 11 significant bits in every layer: on the demo
# weights confidences move by up to 0.003 and points by up to 0.4 % of the box.
TOLERANCE = {False: Tolerance(1e-3, 1e-3), True: Tolerance(3e-2, 3e-2)}
MIN_CONF = 0.01


def get_args_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "export_onnx.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--weights", required=True, help="checkpoint (.pt)")
    add("--img-size", "--img", "--imgsz", nargs="+", type=int, default=[640], metavar="PX",
        help="one number or height width, rounded up to a stride multiple [640]")  # fmt: skip
    add("--batch-size", type=int, default=1, help="images in a batch of a static model [1]")
    add("--device", default="cpu", help="cpu or a GPU index, where PyTorch traces [cpu]")
    add("--dynamic", action="store_true", help="dynamic batch, height and width")
    add("--half", action="store_true", help="FP16 weights and convolutions; needs no GPU")
    add("--round", choices=ROUND, default=None, help="with --half: cancel, weights are rounded so "
        "that their errors cancel, which takes a minute; nearest [cancel]")  # fmt: skip
    add("--simplify", action="store_true", help="run onnx-simplifier")
    add("--opset", type=int, default=DEFAULT_OPSET,
        help="ONNX opset, %d to %d [%d]" % (OPSETS + (DEFAULT_OPSET,)))  # fmt: skip
    add("--check-image", default="", metavar="FILE",
        help="image of the comparison [the first of data/images]")  # fmt: skip
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
    return parser


def check_args(args: argparse.Namespace) -> None:
    """Errors that need no work."""
    if Path(args.weights).suffix != ".pt":
        raise InputError("--weights %s: expected a .pt checkpoint" % args.weights)
    if args.batch_size < 1:
        raise InputError("--batch-size %d: expected at least 1" % args.batch_size)
    if args.dynamic and args.batch_size != 1:
        raise InputError("--batch-size goes with a static model; --dynamic takes any batch")
    if not OPSETS[0] <= args.opset <= OPSETS[1]:
        raise InputError(
            "--opset %d: expected %d to %d (TensorRT 8.5 parses up to %d)"
            % ((args.opset,) + OPSETS + OPSETS[1:])
        )
    if args.round and not args.half:
        raise InputError("--round goes with --half")
    nms = nms_settings(args)
    if not args.end2end:
        given = [flag for flag in NMS_FLAGS if getattr(args, flag) is not None]
        if given:
            raise InputError("--%s goes with --end2end" % given[0].replace("_", "-"))
        return
    if nms.form == "efficientnms" and (args.nms_candidates or args.nms_steps):
        raise InputError("--nms-candidates and --nms-steps go with --nms static")
    if nms.form == "efficientnms" and nms.conf_thres < PLUGIN_MIN_CONF:
        print(
            "warning: --conf-thres %g: below %g TensorRT's plugin sorts every box of the image and "
            "looks at the best 4096; it is slow there" % (nms.conf_thres, PLUGIN_MIN_CONF)
        )


def nms_settings(args: argparse.Namespace) -> Nms:
    """The NMS that the flags ask for. Raises InputError."""
    given = {field: getattr(args, flag) for flag, field in NMS_FLAGS.items()}
    return Nms(**{k: v for k, v in given.items() if v is not None}).resolved()


def output_path(weights: str, dynamic: bool, end2end: bool = False) -> Path:
    """X.pt -> X.onnx, X-dynamic.onnx, X-NMS.onnx or X-dynamic-NMS.onnx."""
    path = Path(weights)
    suffix = ("-dynamic" if dynamic else "") + ("-NMS" if end2end else "")
    return path.with_name(path.stem + suffix + ".onnx")


def export(
    model: Any,
    path: Path,
    net_hw: Tuple[int, int],
    batch: int = 1,
    dynamic: bool = False,
    half: bool = False,
    opset: int = DEFAULT_OPSET,
    simplify: bool = False,
    device: str = "cpu",
    pictures: Sequence[np.ndarray] = (),
) -> Any:
    """Write a fused Model to `path` and return the loaded onnx.ModelProto.

    Args:
        model: models.yolo.Model in eval mode, fused; it is moved to the device.
        net_hw: (height, width) px, multiples of the stride; for `dynamic` the size traced.
        pictures: with `half`: (1, 3, height, width) float32, weights are rounded so that their
            errors cancel on them; without any to the nearest.

    Raises InputError if onnx or, with `simplify`, onnxsim is not installed.
    """
    import onnx
    import torch

    model = model.to(device)
    model.head.dynamic = dynamic
    images = torch.zeros(batch, 3, *net_hw, device=device)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # the tracer warns of every int() and of itself
        torch.onnx.export(
            model,
            (images,),
            str(path),
            opset_version=opset,
            input_names=["input"],
            output_names=["output"],
            dynamic_axes=DYNAMIC_AXES if dynamic else None,
            **_exporter_options(),
        )
    graph = onnx.load(str(path))
    ir_version = graph.ir_version
    if simplify:
        graph = _simplify(graph)
    if half:
        _to_half(graph, pictures)
    # The tracer loses the known width of the rows when height and width are dynamic.
    graph.graph.output[0].type.tensor_type.shape.dim[2].dim_value = model.head.no
    graph.ir_version = ir_version  # simplifiers stamp their own, which old parsers refuse
    graph.producer_name, graph.producer_version = "yolo-pose", ""
    _set_metadata(graph, model, net_hw)
    onnx.checker.check_model(graph)
    onnx.save(graph, str(path))
    return graph


def _to_half(graph: Any, pictures: Sequence[np.ndarray]) -> None:
    from utils.graph import fp16
    from utils.quantization import adaptive_rounding

    adaptive_rounding.prepare(graph, pictures)
    fp16.to_half(graph, half_input=True)


def _exporter_options() -> Dict[str, Any]:
    """torch >= 2.5 has two exporters; the one that writes opset 13 directly is `dynamo=False`."""
    import inspect

    import torch

    known = inspect.signature(torch.onnx.export).parameters
    return {"dynamo": False} if "dynamo" in known else {}


def _simplify(graph: Any) -> Any:
    try:
        import onnxsim
    except ImportError as e:
        raise InputError("--simplify: pip install onnxsim, or export without it") from e
    simplified, same = onnxsim.simplify(graph)
    if not same:
        raise InputError("--simplify: the simplified model computes something else; drop the flag")
    return simplified


def _set_metadata(graph: Any, model: Any, net_hw: Tuple[int, int]) -> None:
    """What a backend cannot read off the graph; JSON values in `metadata_props`."""
    values = {
        "task": "pose",
        "names": list(model.names),
        "nc": model.nc,
        "nkpt": model.nkpt,
        "stride": model.max_stride,
        "imgsz": list(net_hw),
    }
    del graph.metadata_props[:]
    _add_metadata(graph, values)


def _add_metadata(graph: Any, values: Dict[str, Any]) -> None:
    for key, value in values.items():
        entry = graph.metadata_props.add()
        entry.key, entry.value = key, json.dumps(value, ensure_ascii=False)


def check_image(path: str) -> np.ndarray:
    """The picture of the comparison. Raises InputError if there is none."""
    from utils.dataset.images import IMAGE_SUFFIXES, read_image

    folder = ROOT / "data" / "images"
    files = [Path(path)] if path else sorted(folder.glob("*"))
    files = [f for f in files if f.suffix.lower() in IMAGE_SUFFIXES]
    if not files:
        raise InputError("--check-image: no picture in %s; name one" % (path or folder))
    try:
        return read_image(str(files[0]))
    except (ValueError, OSError) as e:
        raise InputError("--check-image %s: %s" % (files[0], e)) from e


class Difference(NamedTuple):
    """Largest differences of two raw outputs; `rel_px` over rows with conf > MIN_CONF."""

    conf: float
    px: float
    rel_px: float
    rows: int


def compare(output: np.ndarray, reference: np.ndarray, nc: int) -> Difference:
    """Compare (B, N, 5 + nc + 3K) raw predictions.

    Confidences are compared in every row; coordinates only where somebody may be, since the
    boxes of empty cells mean nothing.
    """
    if output.shape != reference.shape:
        return Difference(np.inf, np.inf, np.inf, 0)
    columns = output.shape[2]
    is_conf = np.zeros(columns, bool)
    is_conf[4 : 5 + nc] = True
    is_conf[5 + nc + 2 :: 3] = True
    delta = np.abs(output - reference)
    conf = float(delta[..., is_conf].max())
    rows = reference[..., 4] * reference[..., 5 : 5 + nc].max(-1) > MIN_CONF
    if not np.isfinite(delta).all():
        return Difference(np.inf, np.inf, np.inf, int(rows.sum()))
    if not rows.any():  # an untrained network: its best row must do
        best = np.unravel_index(reference[..., 4].argmax(), rows.shape)
        rows[best] = True
    px = delta[rows][:, ~is_conf].max(1)
    size = np.maximum(reference[rows][:, 2:4].max(1), 64.0)
    return Difference(conf, float(px.max()), float((px / size).max()), int(rows.sum()))


def put_nms(
    graph: Any, path: Path, nc: int, nms: Nms, batches: List[np.ndarray]
) -> Tuple[Nms, int]:
    """Put NMS behind the raw output of an exported model, write it to `path`, and prove it.

    Returns the settings as applied and the number of poses found in `batches`. Raises InputError
    if the settings do not fit the model, or the NMS finds other poses than utils/pose/nms.py.
    """
    import onnx

    from utils.graph.nms import add_nms, swap_efficientnms

    baked = {"conf_thres": nms.conf_thres, "iou_thres": nms.iou_thres, "topk": nms.topk}
    _add_metadata(graph, {**baked, "nms": nms.form})
    both = onnx.ModelProto()
    both.CopyFrom(graph)
    nms = add_nms(graph, nc, nms)
    add_nms(both, nc, nms, keep_raw=True)
    if nms.form == "efficientnms":  # the plugin knows no longest chain, and takes 4096 boxes
        most = max(_passing(path, images, nc, nms.conf_thres) for images in batches)
        candidates = max(nms.topk, min(most + SPARE, MAX_TOPK))
        swap_efficientnms(both, candidates, steps=255)
    onnx.save(both, str(path))
    poses = sum(verify_nms(path, images, nc, nms) for images in batches)
    onnx.checker.check_model(graph)
    onnx.save(graph, str(path))
    _run(path, batches[0])
    return nms, poses


def _passing(path: Path, images: np.ndarray, nc: int, conf_thres: float) -> int:
    """The most boxes above the threshold in an image, of a file with raw output."""
    from utils.runtime.onnx_backend import OnnxBackend

    raw = OnnxBackend(path, gpu=-1)(images)
    scores = raw[..., 4] * raw[..., 5 : 5 + nc].max(-1)
    return int((scores > conf_thres).sum(1).max())


def _run(path: Path, images: np.ndarray, raw: bool = False) -> Tuple[Any, np.ndarray]:
    """Detections and, if the file has it too, the raw output."""
    from utils.runtime.backend import Detections
    from utils.runtime.onnx_backend import OnnxBackend

    backend = OnnxBackend(path, gpu=-1)
    if not raw:
        return backend(images), np.zeros(0)
    names = [*Detections._fields, "output"]
    *found, output = backend.session.run(names, {"input": images.astype(backend.dtype)})
    return Detections(*found), output


def verify_nms(path: Path, images: np.ndarray, nc: int, nms: Nms) -> int:
    """Compare NMS inside with utils/pose/nms.py, on the raw output of the same inference.

    EfficientNMS runs as its static form here. Returns the number of poses. Raises InputError if
    they differ.
    """
    from utils.pose.nms import detections_to_poses, raw_to_poses

    found, raw = _run(path, images, raw=True)
    expected = raw_to_poses(raw, nc, nms.conf_thres, nms.iou_thres, max_det=nms.topk)
    inner = detections_to_poses(found, max_det=nms.topk)
    for image, (inside, outside) in enumerate(zip(inner, expected)):
        if not all(np.array_equal(a, b) for a, b in zip(inside, outside)):
            raise InputError(
                "NMS inside the model found other poses than NMS outside (%d against %d in image "
                "%d); the file was not kept. --nms static takes more --nms-candidates, --nms-steps"
                % (inside.count, outside.count, image)
            )
    return sum(poses.count for poses in expected)


def verify(path: Path, reference: np.ndarray, batch: np.ndarray, nc: int, half: bool) -> Difference:
    """Run the file in ONNX Runtime and compare. Raises InputError if it differs."""
    from utils.runtime.onnx_backend import OnnxBackend

    output = OnnxBackend(path, gpu=-1)(batch)
    difference = compare(output, reference, nc)
    limit = TOLERANCE[half]
    if difference.conf > limit.conf or difference.rel_px > limit.px:
        raise InputError(
            "%s: ONNX Runtime differs from PyTorch (confidence %.2g, limit %.2g; points %.2g of "
            "the box, limit %.2g); the file was not kept"
            % ("FP16" if half else "FP32", difference.conf, limit.conf, difference.rel_px, limit.px)
        )
    return difference


def torch_device(device: str) -> str:
    """`cpu` or `cuda:N` for --device. Raises InputError if PyTorch does not see that GPU."""
    import torch

    from utils.device import parse_device

    gpu = parse_device(device)
    if gpu is None or gpu < 0:
        return "cpu"
    if gpu >= torch.cuda.device_count():
        raise InputError(
            "--device %s: PyTorch sees %d GPUs; --device cpu exports the same file"
            % (device, torch.cuda.device_count())
        )
    return "cuda:%d" % gpu


def reference_output(model: Any, batch: np.ndarray) -> np.ndarray:
    """FP32 PyTorch predictions on the CPU."""
    import torch

    with torch.no_grad():
        return model(torch.from_numpy(batch)).numpy()


def check_batch(image: np.ndarray, net_hw: Tuple[int, int], batch: int) -> np.ndarray:
    """The picture, letterboxed as detect does; further images of the batch are mirrored."""
    from utils.pose import letterbox

    box = letterbox.fit((image.shape[0], image.shape[1]), net_hw)
    views: List[np.ndarray] = [image, np.ascontiguousarray(image[:, ::-1])]
    return letterbox.to_batch([views[i % 2] for i in range(batch)], [box] * batch, net_hw)


def main(args: argparse.Namespace) -> None:
    from utils.pose import letterbox

    check_args(args)
    asked = letterbox.parse_size(args.img_size)
    image = check_image(args.check_image)
    for package in ("torch", "onnx", "onnxruntime"):
        _require(package)
    device = torch_device(args.device)
    from models.checkpoint import load_checkpoint
    from utils.quantization.adaptive_rounding import sample_pictures
    from utils.runtime.predictor import warn_if_rounded

    path = output_path(args.weights, args.dynamic, args.end2end)
    replaced = path.exists()
    model = load_checkpoint(args.weights).model
    net_hw = letterbox.stride_multiple(asked, model.max_stride)
    warn_if_rounded(asked, net_hw, model.max_stride)
    millions = model.parameter_count() / 1e6
    # The reference is the network as it was trained: fuse() is part of what is proved.
    batch = check_batch(image, net_hw, args.batch_size)
    reference = reference_output(model, batch)
    pairs = [(batch, reference)]
    if args.dynamic:  # a batch and a size that were not traced
        hw = (net_hw[0] + model.max_stride, net_hw[1])
        other = check_batch(image, hw, 2)
        pairs.append((other, reference_output(model, other)))
    nc = model.nc
    model.fuse()
    pictures: List[np.ndarray] = []
    if args.half and args.round != "nearest":
        print("rounding the weights so that errors cancel takes a minute; --round nearest leaves "
              "that out", flush=True)  # fmt: skip
        pictures = sample_pictures(net_hw, [args.check_image] if args.check_image else [])
    with atomic_path(path) as tmp:
        graph = export(
            model, tmp, net_hw, args.batch_size, args.dynamic, args.half, args.opset,
            args.simplify, device, pictures,
        )  # fmt: skip
        checks = [verify(tmp, wanted, images, nc, args.half) for images, wanted in pairs]
        difference = checks[0]
        nms, poses = None, 0
        if args.end2end:
            batches = [images for images, _ in pairs]
            nms, poses = put_nms(graph, tmp, nc, nms_settings(args), batches)
    if replaced:
        print("an earlier %s was replaced" % path)
    print(
        "%s: %.1f M parameters, %d nodes, opset %d, input %s %s, %.1f MB"
        % (
            path,
            millions,
            len(graph.graph.node),
            args.opset,
            "dynamic" if args.dynamic else "%dx3x%dx%d" % ((args.batch_size,) + net_hw),
            "FP16" if args.half else "FP32",
            path.stat().st_size / 1e6,
        )
    )
    print(
        "ONNX Runtime against PyTorch FP32 on a real image: confidences within %.1e, points "
        "within %.1e px (%d likely rows)" % (difference.conf, difference.px, difference.rows)
    )
    if nms is not None:
        print(describe_nms(nms, poses))


def describe_nms(nms: Nms, poses: int) -> str:
    """What is in the model, and what the check found."""
    text = "NMS inside (%s): conf %g, iou %g, at most %d poses" % nms[:4]
    if nms.form == "static":
        text += ", from the best %d boxes, chains up to %d" % (nms.candidates, nms.steps)
    return text + "; finds what NMS outside finds (%d poses)" % poses


def _require(package: str) -> None:
    import importlib

    try:
        importlib.import_module(package)
    except ImportError as e:
        raise InputError("exporting needs %s: pip install %s (%s)" % (package, package, e)) from e


if __name__ == "__main__":
    cli.run(main, get_args_parser())
