"""Every validator against mutations of a valid file: it succeeds, or raises InputError.

FUZZ_EXAMPLES=5000 python -m pytest tests/test_fuzz.py        # as long as you like: make fuzz
"""

import contextlib
import copy
import json
import os
import warnings

import numpy as np
import pytest

pytest.importorskip("hypothesis")
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.conftest import ROOT, tiny_cfg
from utils.dataset.annotation_files import read_annotation
from utils.dataset.annotations import IsCoco, fit
from utils.dataset.coco import api_content, read_coco
from utils.dataset.data_yaml import read_data
from utils.dataset.labels import list_images, read_labels, scan_labels
from utils.errors import InputError
from utils.pose.keypoints import skeleton
from utils.quantization.cache import read_cache
from utils.reading import read_json, read_yaml
from utils.runtime.metadata import identify
from utils.trt.sidecar import info_path, read_info

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "60"))
seeded = settings(
    max_examples=EXAMPLES,
    derandomize="FUZZ_EXAMPLES" not in os.environ,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)
NEST = []
for _ in range(90):
    NEST = [NEST]
ODD = [
    None, True, False, 0, -1, 1, 2.5, 1e308, -1e308, 10**400, -(10**400), 2**63, float("nan"),
    float("inf"), "", "x", "nan", "\x1b[2J", "\ud800", "a\nb", "\0", "1e9", "../..", [], {}, [[]],
    [None], {"": None}, [1, 2, 3], {"a": {"b": 1}}, NEST, "x" * 5000, 1 << 31, 20000, [0] * 500,
]  # fmt: skip
changes = st.lists(st.tuples(st.integers(0, 1 << 20), st.integers(0, 1 << 20)), max_size=4)


def places(value, found, depth=0):
    """(container, key) of every value inside."""
    if isinstance(value, (dict, list)) and depth < 20:
        for key in value if isinstance(value, dict) else range(len(value)):
            found.append((value, key))
            places(value[key], found, depth + 1)
    return found


def mutated(valid, steps):
    """A copy with some values replaced by odd ones, removed, doubled or swapped."""
    box = [copy.deepcopy(valid)]
    for where, what in steps:
        spots = places(box, [])
        container, key = spots[where % len(spots)]
        kind = what % (len(ODD) + 3)
        if kind < len(ODD):
            container[key] = copy.deepcopy(ODD[kind])
        elif kind == len(ODD) and len(spots) > 1 and container is not box:
            del container[key]
        elif kind == len(ODD) + 1 and isinstance(container, list):
            container.append(copy.deepcopy(container[key]))
        else:
            other, at = spots[what // 7 % len(spots)]
            container[key] = copy.deepcopy(other[at])
    return box[0]


def damaged(data, steps):
    """Bytes cut, changed, doubled."""
    data = bytearray(data)
    for where, what in steps:
        at = where % max(len(data), 1)
        kind = what % 5
        if kind == 0:
            del data[at:]
        elif kind == 1 and data:
            data[at] = what // 5 % 256
        elif kind == 2:
            data[at:at] = data[: what % 50]
        elif kind == 3:
            data[at:at] = [b"nan", b"1e999", b"\xff\xfe", b"\0", b"-", b"\r", b"\xc2\x85"][what % 7]
        else:
            del data[at : at + what % 9]
    return bytes(data)


@contextlib.contextmanager
def only_input_errors():
    with warnings.catch_warnings(), contextlib.suppress(InputError):
        warnings.simplefilter("ignore")
        yield


def dumped(value):
    """JSON or YAML text; what JSON has no word for is left to its Python spelling."""
    return json.dumps(value).encode("utf-8", "surrogatepass")


COCO = {
    "images": [{"id": 1, "file_name": "a.jpg", "height": 40, "width": 50},
               {"id": 2, "file_name": "b.jpg", "height": 40, "width": 50}],
    "categories": [{"id": 1, "name": "person", "keypoints": ["a", "b"], "skeleton": [[1, 2]]}],
    "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 2, 30, 20.5],
                     "area": 300, "iscrowd": 0, "num_keypoints": 2,
                     "keypoints": [3, 4, 2, 20, 20, 1]}],
}  # fmt: skip
OWN = [{"keypoints": [3, 4, 20, 20], "bbox": [1, 2, 30, 20.5], "class": 0, "area": 3}, {"bbox": []}]
LABELME = {
    "imagePath": "a.jpg", "imageHeight": 40, "imageWidth": 50,
    "shapes": [
        {"label": "person", "group_id": 1, "shape_type": "rectangle", "points": [[1, 2], [30, 40]]},
        {"label": "keypoint0", "group_id": 1, "shape_type": "point", "points": [[3, 4]],
         "flags": {"hidden": True}, "description": "occluded"},
    ],
}  # fmt: skip
DATA = {
    "train": "list.txt", "val": ["list.txt"], "nc": 1, "names": ["person"], "nkpt": 2,
    "sigmas": [0.1, 0.1], "val-annotations": "a.json", "train-weights": [1],
}  # fmt: skip
INFO = {
    "task": "pose", "names": ["person"], "nc": 1, "nkpt": 17, "stride": 64, "imgsz": [640, 640],
    "conf_thres": 0.25, "iou_thres": 0.45, "topk": 100, "nms": "static", "precision": "FP16",
    "bytes": 5, "runtime": "TensorRT", "version": "8.5.3.1", "gpu": "x", "onnx": "x.onnx",
    "kpt_shape": [17, 3], "args": {"nms": True}, "end2end": False,
}  # fmt: skip
LABELS = b"0 0.5 0.5 0.2 0.2 0.5 0.5 2 0.4 0.4 1\n0 0.5 0.5 0.2 0.2 0 0 0 0.4 0.4 1\n"
CACHE = b"TRT-8502-MinMaxCalibration\ninput: 3c010a14\nx: 3d010a14\n"
RESULTS = b"epoch,loss,kpt_ap\n1,0.5,0.1\n2,0.4,\n"


@seeded
@given(changes)
def test_coco_json(tmp_path_factory, steps):
    path = file_of(tmp_path_factory, dumped(mutated(COCO, steps)))
    for faults in (None, []):
        with only_input_errors():
            coco = read_coco(path, ["person"], 2, faults=faults)
            if faults is None:
                api_content(path, coco.category_ids, coco.skeleton)


@seeded
@given(changes, st.sampled_from([OWN, LABELME]))
def test_annotation_of_one_image(tmp_path_factory, steps, valid):
    path = file_of(tmp_path_factory, dumped(mutated(valid, steps)))
    with only_input_errors(), contextlib.suppress(IsCoco):
        fit(read_annotation(path, ["person"], skeleton(2)), (40, 50))


@seeded
@given(changes)
def test_data_yaml(tmp_path_factory, steps):
    path = file_of(tmp_path_factory, dumped(mutated(DATA, steps)))
    (path.parent / "list.txt").write_text("a.jpg\n")
    with only_input_errors():
        data = read_data(path)
        for task in data.splits:
            with only_input_errors():
                data.images(task)


@seeded
@given(changes)
def test_hyper_parameters(tmp_path_factory, steps):
    from utils.training.hyper_parameters import read_hyp

    valid = read_yaml(ROOT / "data" / "hyp.scratch.yaml")
    with only_input_errors():
        read_hyp(file_of(tmp_path_factory, dumped(mutated(valid, steps))))


@seeded
@given(changes, st.sampled_from(["labels", "list", "cache", "results", "json", "yaml"]))
def test_damaged_text(tmp_path_factory, steps, kind):
    from utils.training.run_log import read_rows

    content = {"labels": LABELS, "list": b"a.jpg\nb/c.jpg\n", "cache": CACHE, "results": RESULTS,
               "json": dumped(COCO), "yaml": dumped(DATA)}[kind]  # fmt: skip
    path = file_of(tmp_path_factory, damaged(content, steps))
    read = {
        "labels": lambda: read_labels(path, 2, 1), "list": lambda: list_images(path),
        "cache": lambda: read_cache(path), "results": lambda: read_rows(path, 9),
        "json": lambda: read_json(path, "annotation"), "yaml": lambda: read_yaml(path),
    }[kind]  # fmt: skip
    with only_input_errors():
        read()


@seeded
@given(st.lists(st.sampled_from("0 1 0.5 -1 nan inf 1e400 x １ 1_0 ０.５ \x85 \u2028 2".split())))
def test_words_of_a_label_file(words):
    labels, faults, _ = scan_labels(" ".join(words) + "\n" + LABELS.decode(), 2, 1)
    assert np.isfinite(labels.boxes).all() and (labels.classes == 0).all()


@seeded
@given(changes, st.sampled_from([[1, 100, 57], [1, 57, 100], [1, 300, 57], [None, None, 57], [1]]))
def test_metadata_of_a_model(steps, dims):
    found = mutated(INFO, steps)
    properties = {str(k): json.dumps(v) for k, v in found.items()} if type(found) is dict else {}
    for outputs in (
        {"output": dims},
        {"num_dets": [1, 1], "det_indices": [1, 100, 3], "det_boxes": [1, 100, 4],
         "det_pose": [1, 100, 51], "det_scores": [1, 100, 1]},
    ):  # fmt: skip
        with contextlib.suppress(ValueError, InputError):  # the backends name the file
            info = identify(properties, outputs).info
            "".join(info.names).encode("utf-8")
            assert info.nkpt == 17


@seeded
@given(changes)
def test_side_file_of_an_engine(tmp_path_factory, steps):
    engine = tmp_path_factory.mktemp("fuzz") / "x.trt"
    info_path(engine).write_bytes(dumped(mutated(INFO, steps)))
    with only_input_errors():
        assert isinstance(read_info(engine), dict)


@settings(parent=seeded, max_examples=max(EXAMPLES // 2, 1))
@given(changes)
def test_cfg(tmp_path_factory, steps):
    pytest.importorskip("torch")
    from utils.training.config import TrainConfig
    from utils.training.network import build_model

    path = file_of(tmp_path_factory, dumped(mutated(tiny_cfg(), steps)))
    (path.parent / "d.yaml").write_bytes(dumped({"names": ["person"]}))
    with only_input_errors():
        build_model(TrainConfig(cfg=str(path)), read_data(path.parent / "d.yaml"))


@settings(parent=seeded, max_examples=max(EXAMPLES // 4, 1))
@given(changes, changes)
def test_checkpoint(tmp_path_factory, steps, bits):
    torch = pytest.importorskip("torch")
    from models.checkpoint import load_checkpoint

    path = checkpoint_of(tmp_path_factory)
    content = torch.load(str(path), weights_only=True)
    tensors = content.pop("state_dict")
    changed = mutated(content, steps)
    if isinstance(changed, dict):
        names = sorted(tensors)
        for where, what in bits:
            name = names[where % len(names)]
            tensors[name] = [torch.zeros(3), None, "x", tensors[names[0]], 1.0][what % 5]
        changed["state_dict"] = tensors
    path = path.with_name("changed.pt")
    torch.save(changed, str(path))
    with only_input_errors():
        load_checkpoint(path)
    path.write_bytes(damaged(path.read_bytes(), bits))
    with only_input_errors():
        load_checkpoint(path)


@seeded
@given(changes)
def test_state_of_a_run(steps):
    pytest.importorskip("torch")
    import torch

    from models.checkpoint import TrainingState
    from utils.training.config import TrainConfig
    from utils.training.hyper_parameters import read_hyp
    from utils.training.resume import check_state

    hyp = dict(read_hyp(ROOT / "data" / "hyp.scratch.yaml")._asdict())
    plain = {"args": TrainConfig(cfg="x").plain(), "hyp": hyp, "epoch": 1, "best": 0.1,
             "best_epoch": 1, "updates": 3}  # fmt: skip
    found = mutated(plain, steps)
    with only_input_errors():
        check_state(TrainingState(found, {"model.x": torch.zeros(2)}), "last.pt")
        kept = {k: v for k, v in found["args"].items() if k in TrainConfig.__dataclass_fields__}
        TrainConfig(**kept)


def file_of(factory, data):
    path = factory.mktemp("fuzz") / "x"
    path.write_bytes(data)
    return path


def checkpoint_of(factory):
    """A valid one, made once."""
    from models.checkpoint import save_checkpoint
    from models.yolo import Model

    folder = factory.getbasetemp() / "checkpoint"
    if not (folder / "x.pt").is_file():
        save_checkpoint(folder / "x.pt", Model(tiny_cfg()), {"epoch": 3})
    return folder / "x.pt"
