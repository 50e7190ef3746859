"""What tests/campaign.py tries: the hostile files and flags of each kind.

One long file: a table of cases, read from top to bottom.
"""

import json
import os
import shutil
import socket
from pathlib import Path
from typing import Any, Callable, Dict, List, Tuple

import numpy as np

from tests.campaign import DONE, EITHER, REFUSED, ROOT, Case
from tests.conftest import make_pose_onnx, pose_row, tiny_cfg
from tests.small_net import make_small_net
from tests.test_fuzz import COCO, ODD

SCRIPTS = (
    "escalator.json2yolo", "escalator.json2coco", "escalator.yolo2coco", "escalator.visual",
    "escalator.split", "escalator.check", "escalator.extract_equivalent_coco", "models.average",
    "models.checkpoint", "models.public_weights", "models.export_onnx", "models.export_INT8",
    "models.export_TRT", "detect_multi_backend", "test_multi_backend", "train",
)  # fmt: skip
PEOPLE = ROOT / "tests" / "data" / "people"
IMAGES = 4


def preload() -> None:
    """Import what the scripts import, once for all forks."""
    import importlib

    for name in (*SCRIPTS, "onnx", "onnxruntime", "matplotlib.pyplot", "PIL.Image", "yaml"):
        importlib.import_module(name)


def make_template(folder: Path) -> None:
    """The small dataset and models; in a process of its own, as threads do not survive a fork."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            _make(folder)
            code = 0
        finally:
            os._exit(code)
    if os.waitpid(child, 0)[1]:
        raise RuntimeError("the template could not be made")


def _make(folder: Path) -> None:
    import yaml

    from escalator.json2coco import json2coco
    from escalator.json2yolo import json2yolo
    from models.checkpoint import save_checkpoint
    from models.yolo import Model

    data = folder / "data"
    for part, suffix in (("images", "jpg"), ("annotations", "json")):
        (data / part).mkdir(parents=True)
        for i in range(IMAGES):
            name = "people%02d.%s" % (i, suffix)
            shutil.copy(str(PEOPLE / part / name), str(data / part / name))
    json2yolo(str(data / "annotations"))
    (data / "list.txt").write_text("".join("images/people%02d.jpg\n" % i for i in range(IMAGES)))
    json2coco(str(data / "annotations"), str(data / "coco.json"))
    plain = {"train": "list.txt", "val": "list.txt", "names": ["person"]}
    (data / "d.yaml").write_text(json.dumps(plain))
    (data / "c.yaml").write_text(json.dumps({**plain, "val-annotations": "coco.json"}))
    (folder / "cfg.yaml").write_text(yaml.safe_dump(tiny_cfg()))
    shutil.copy(str(ROOT / "data" / "hyp.scratch.yaml"), str(folder / "hyp.yaml"))
    make_pose_onnx(folder / "pose.onnx", pose_row(32, 32, 20, 40)[None])
    make_small_net(folder / "small.onnx")
    save_checkpoint(folder / "tiny.pt", Model(tiny_cfg()), {"epoch": 3, "imgsz": [64, 64]})
    _make_run(folder)


def _make_run(folder: Path) -> None:
    """A run that can go on: run/weights/last.pt and results.csv."""
    import torch

    from models.checkpoint import save_checkpoint
    from tests.small_train import make_trainer
    from utils.training.config import TrainConfig
    from utils.training.trainer import TrainerOptions

    (folder / "noise").mkdir()
    trainer = make_trainer(folder / "noise", tiny_cfg(), TrainerOptions(3, torch.device("cpu")))
    case = folder.parent / "case"
    config = TrainConfig(
        cfg=str(case / "cfg.yaml"), data=str(case / "data" / "d.yaml"), hyp=str(case / "hyp.yaml"),
        epochs=3, batch_size=4, img_size=[64], device="cpu", workers=0, project=str(case), name="run",
    )  # fmt: skip
    state = trainer.state()
    state.plain.update(
        epoch=1, best=0.1, best_epoch=1, args=config.plain(), hyp=dict(trainer.hyp._asdict())
    )
    (folder / "run" / "weights").mkdir(parents=True)
    save_checkpoint(
        folder / "run" / "weights" / "last.pt", trainer.ema.model, {"epoch": 1}, training=state
    )
    (folder / "run" / "results.csv").write_text("epoch,loss,kpt_ap\n1,0.5,0.1\n")


# --- how a folder is spoilt -------------------------------------------------------------------


def nothing(folder: Path) -> None:
    pass


def text(name: str, content: Any) -> Callable[[Path], None]:
    """Write a file: bytes, text, or a value as JSON."""
    if not isinstance(content, (bytes, str)):
        content = json.dumps(content)
    data = content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass")

    def spoil(folder: Path) -> None:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)

    return spoil


def special(name: str, kind: str) -> Callable[[Path], None]:
    """Replace a file by something that is no regular file of a sensible size."""

    def spoil(folder: Path) -> None:
        path = folder / name
        if path.exists():
            path.unlink()
        if kind == "fifo":
            os.mkfifo(str(path))
        elif kind in ("zero", "urandom", "full"):
            path.symlink_to("/dev/" + kind)
        elif kind == "folder":
            path.mkdir()
        elif kind == "socket":
            here = os.getcwd()
            os.chdir(str(path.parent))
            with socket.socket(socket.AF_UNIX) as server:
                server.bind(path.name[:90])
            os.chdir(here)
        elif kind == "loop":
            path.symlink_to(path.name)
        elif kind == "empty":
            path.write_bytes(b"")
        else:
            with path.open("wb") as file:
                file.truncate(1 << 43)

    return spoil


SPECIALS = ("fifo", "zero", "folder", "socket", "loop", "empty", "sparse")

DETECT = ("--source", "{}/data/images", "--project", "{}/out", "--device", "cpu")
TEST = ("--project", "{}/out", "--device", "cpu", "--no-report")
TRAIN = ("--epochs", 1, "--batch-size", 4, "--img-size", 64, "--device", "cpu", "--workers", 0,
         "--project", "{}/out", "--notest")  # fmt: skip
BASE = {
    "detect": ("detect_multi_backend", (*DETECT, "--weights", "{}/pose.onnx")),
    "test": ("test_multi_backend", (*TEST, "--weights", "{}/pose.onnx", "--data", "{}/data/d.yaml")),
    "testc": ("test_multi_backend", (*TEST, "--weights", "{}/pose.onnx", "--data", "{}/data/c.yaml")),
    "train": ("train", (*TRAIN, "--cfg", "{}/cfg.yaml", "--data", "{}/data/d.yaml", "--hyp",
                        "{}/hyp.yaml")),
    "resume": ("train", ("--resume", "{}/run/weights/last.pt")),
    "check": ("escalator.check", ("--data", "{}/data/d.yaml", "--save_dir", "{}/out")),
    "visual": ("escalator.visual", ("--data_root", "{}/data", "--data_file", "list.txt", "--save_dir",
                                    "{}/out")),
    "yolo2coco": ("escalator.yolo2coco", ("--data_file", "{}/data/list.txt", "--save_file",
                                          "{}/out.json")),
    "json2yolo": ("escalator.json2yolo", ("--json_dir", "{}/data/annotations", "--label_dir",
                                          "{}/out")),
    "coco2yolo": ("escalator.json2yolo", ("--json_dir", "{}/data/coco.json", "--label_dir",
                                          "{}/out")),
    "json2coco": ("escalator.json2coco", ("--json_dir", "{}/data/annotations", "--save_file",
                                          "{}/out.json")),
    "split": ("escalator.split", ("--image_dir", "{}/data/images", "--out_path", "{}/out", "--split",
                                  0.5, 0.5)),
    "extract": ("escalator.extract_equivalent_coco", ("--custom_data", "{}/data/list.txt",
                                                      "--coco_data", "{}/data/list.txt")),
    "checkpoint": ("models.checkpoint", ("--weights", "{}/tiny.pt", "--out", "{}/new.pt")),
    "average": ("models.average", ("--weights", "{}/tiny.pt", "{}/run/weights/last.pt", "--out",
                                   "{}/new.pt")),
    "public": ("models.public_weights", ("{}/tiny.pt",)),
    "onnx": ("models.export_onnx", ("--weights", "{}/tiny.pt", "--img-size", 64)),
    "int8": ("models.export_INT8", ("--onnx", "{}/small.onnx", "--calib_path", "{}/data/images",
                                    "--calib_num", 2, "--cache_dir", "{}/caches")),
    "trt": ("models.export_TRT", ("--onnx", "{}/small.onnx", "--int8", "--calib_path",
                                  "{}/data/images", "--cache_dir", "{}/caches")),
}  # fmt: skip


def case(
    kind: str, name: str, base: str, spoil: Any = nothing, expected: Any = EITHER, more: Any = ()
):
    script, flags = BASE[base]
    return Case(kind, name, script, (*flags, *more), spoil, expected)


# --- the kinds --------------------------------------------------------------------------------


def replaced(valid: Any, path: Tuple, value: Any) -> Any:
    """A copy of JSON-like content with the value at a path replaced."""
    content = json.loads(json.dumps(valid))
    inside = content
    for key in path[:-1]:
        inside = inside[key]
    inside[path[-1]] = value
    return content


def paths_of(valid: Any, prefix: Tuple = ()) -> List[Tuple]:
    """The path of every value in JSON-like content."""
    found = []
    items = (
        valid.items()
        if isinstance(valid, dict)
        else enumerate(valid)
        if isinstance(valid, list)
        else ()
    )
    for key, value in items:
        found += [(*prefix, key), *paths_of(value, (*prefix, key))]
    return found


def spread(values: List, count: int) -> List:
    """`count` of the values, evenly."""
    return [values[i * len(values) // count] for i in range(min(count, len(values)))]


def coco_cases() -> List[Case]:
    from tests.test_fuzz import mutated

    cases = []
    real = json.loads((PEOPLE / "annotations" / "people00.json").read_text())
    valid = {
        "images": [{"id": i, "file_name": "people%02d.jpg" % i, "height": 192, "width": 256}
                   for i in range(IMAGES)],
        "categories": [{"id": 1, "name": "person"}],
        "annotations": [{"id": 1, "image_id": 0, "category_id": 1, "iscrowd": 0, "area": 9,
                         "bbox": [1, 2, 30, 20.5], "keypoints": [3, 4, 2] * 17}],
    }  # fmt: skip
    pairs = [(path, odd) for path in paths_of(valid) for odd in ODD if len(path) < 5]
    for path, odd in spread(pairs, 90):
        name = "%s = %s" % (".".join(map(str, path)), repr(odd)[:30])
        for base in ("coco2yolo", "testc"):
            cases.append(
                case("coco", name, base, text("data/coco.json", replaced(valid, path, odd)))
            )
    rng = np.random.default_rng(0)
    for i in range(40):
        steps = rng.integers(0, 1 << 20, (4, 2)).tolist()
        cases.append(
            case(
                "coco", "mutation %d" % i, "coco2yolo", text("data/coco.json", mutated(COCO, steps))
            )
        )
        content = mutated(real, steps)
        for base in ("json2yolo", "json2coco"):
            cases.append(
                case(
                    "own json",
                    "mutation %d" % i,
                    base,
                    text("data/annotations/people00.json", content),
                )
            )
    for name, data in {
        "deep": "[" * 200000, "deep objects": '{"a":' * 100000, "not UTF-8": b"\xff\xfe\x00", "NUL": b"\0" * 9,
        "long number": "1" * 200000, "infinity": "[Infinity, NaN, -Infinity]", "twice": "{}{}",
        "area -1": [{"bbox": [1, 1, 9, 9], "area": -1}], "only a string": '"x"',
    }.items():  # fmt: skip
        for base in ("json2yolo", "json2coco"):
            cases.append(case("own json", name, base, text("data/annotations/people00.json", data)))
        cases.append(case("coco", name, "testc", text("data/coco.json", data), REFUSED))
    return cases


YAML = {
    "laughs": "a0: &a0 [1, 1]\n" + "".join("a%d: &a%d [%s]\n" % (i, i, ", ".join(["*a%d" % (i - 1)] * 9)) for i in range(1, 30)),
    "merges": "a0: &a0 {k: 1}\n" + "".join("a%d: &a%d\n  <<: [%s]\n" % (i, i, ", ".join(["*a%d" % (i - 1)] * 9)) for i in range(1, 30)),
    "itself": "a: &a [*a]", "deep": "[" * 5000, "control": "a: \x07", "latin": b"a: \xe9", "twice": "a: 1\na: 2",
    "python": "a: !!python/object/apply:os.system ['echo']", "date": "a: 2001-99-99", "list": "[1]", "number": "3",
    "empty": "", "documents": "a: 1\n---\nb: 2", "long": "a: " + "x" * 300000, "tab": "a:\t- b", "null key": "? \n: 1",
}  # fmt: skip


def yaml_cases() -> List[Case]:
    import yaml

    cases = []
    for name, content in YAML.items():
        for base, file in (
            ("check", "data/d.yaml"),
            ("test", "data/d.yaml"),
            ("train", "hyp.yaml"),
            ("train", "cfg.yaml"),
        ):
            cases.append(case("yaml", name + " " + file, base, text(file, content), REFUSED))
    hyp = yaml.safe_load((ROOT / "data" / "hyp.scratch.yaml").read_text())
    pairs = [(key, odd) for key in hyp for odd in ODD]
    for key, odd in spread(pairs, 40):
        cases.append(
            case(
                "hyp",
                "%s = %s" % (key, repr(odd)[:30]),
                "train",
                text("hyp.yaml", {**hyp, key: odd}),
            )
        )
    cfg = tiny_cfg()
    rows = [
        ("backbone", 1, 3),
        ("backbone", 2, 3),
        ("backbone", 0, 3),
        ("head", 1, 3),
        ("head", 2, 3),
    ]
    for key, i, j in rows:
        for args in ([], [64, 0], [64, -1], [64, 2.5], [64, "x"], [64, 3, 0], [64, 3, 2, 7], [64, 31, 31], [10**9], ["a"],
                     [None, 0, "nearest"], [None, -2, "nearest"], [None, 2, "x"], [7], [64, [1, 2]], [64, [3, 5]]):  # fmt: skip
            content = replaced(cfg, (key, i, j), args)
            cases.append(
                case("cfg", "%s[%d] %s" % (key, i, args), "train", text("cfg.yaml", content))
            )
    for key, value in [("anchors", 5), ("anchors", [[1, 2], [1]]), ("anchors", [[0, 0]] * 4), ("nc", 0), ("nc", 1e9), ("nkpt", "x"),
                       ("depth_multiple", float("nan")), ("width_multiple", 16), ("width_multiple", -1), ("backbone", []),
                       ("head", {}), ("head", cfg["head"][:-1]), ("act", 3), ("act", "os.system"), ("act_by_layer", {"x": "y"}),
                       ("act_by_layer", [1]), ("ch", 0), ("ch", 4), ("dw_conv_kpt", "maybe")]:  # fmt: skip
        cases.append(
            case(
                "cfg",
                "%s = %s" % (key, str(value)[:30]),
                "train",
                text("cfg.yaml", {**cfg, key: value}),
            )
        )
    return cases


def text_cases() -> List[Case]:
    cases = []
    row = "0 0.5 0.5 0.2 0.2 " + " ".join(["0.5 0.5 2"] * 17)
    labels = {
        "empty": "", "words": row.replace("0.5", "x", 1), "nan": row.replace("0.5", "nan", 1), "1e400": row.replace("0.5", "1e400", 1),
        "class 9": "9" + row[1:], "class -1": "-1" + row[1:], "class 0.5": "0.5" + row[1:], "class 1e30": "1e30" + row[1:],
        "short": row[:40], "latin": row.encode() + b" \xe9", "NUL": row + "\0", "long": (row + "\n") * 3000, "no width": row.replace("0.2", "0"),
        "outside": row.replace("0.5", "3"), "visibility": row.replace(" 2", " 7"), "underscore": row.replace("0.5", "1_0", 1),
        "full width": row.replace("0.5", "\uff10.5", 1), "BOM": "\ufeff" + row, "next line": row.replace(" ", "\x85"),
    }  # fmt: skip
    for name, content in labels.items():
        for base in ("yolo2coco", "check", "visual", "test", "train"):
            cases.append(case("labels", name, base, text("data/labels/people00.txt", content)))
    lists = {
        "empty": "", "NUL": "images/a\0b.jpg", "latin": b"images/\xe9.jpg", "missing": "images/none.jpg", "itself": "list.txt",
        "device": "/dev/zero", "folder": "images", "escape": "images/\x1b[2J.jpg", "long": "x" * 100000 + ".jpg", "up": "../../../../etc/passwd",
        "BOM": "\ufeffimages/people00.jpg", "CR": "images/people00.jpg\rimages/people01.jpg", "address": "rtsp://127.0.0.1:9/x",
    }  # fmt: skip
    for name, content in lists.items():
        for base in ("yolo2coco", "visual", "extract", "test", "train"):
            cases.append(case("lists", name, base, text("data/list.txt", content)))
        cases.append(
            case(
                "lists",
                name,
                "detect",
                text("data/list.txt", content),
                more=("--source", "{}/data/list.txt"),
            )
        )
    tables = {
        "latin": b"epoch\n\xe9", "words": "epoch,loss\nx,y\n", "no epoch": "loss\n1\n", "ragged": "epoch\n1,2,3\n", "empty": "",
        "NUL": "epoch\n\0\n", "nan": "epoch\nnan\n", "huge": "epoch\n1e999\n", "quote": 'epoch\n"1',
    }  # fmt: skip
    for name, content in tables.items():
        cases.append(case("results.csv", name, "resume", text("run/results.csv", content)))
    caches = {
        "empty": "", "header": "TRT-x\n", "nan": "TRT-8502-MinMaxCalibration\ninput: 7fc00000\n", "other": "TRT-8502-MinMaxCalibration\nx: 3c010a14\n",
        "latin": b"TRT-8502-MinMaxCalibration\n\xe9: 1\n", "word": "TRT-8502-MinMaxCalibration\ninput: zz\n", "minus": "TRT-8502-MinMaxCalibration\ninput: bc010a14\n",
    }  # fmt: skip
    for name, content in caches.items():
        cases.append(case("caches", name, "int8", text("caches/small.cache", content), REFUSED))
        cases.append(case("caches", name, "trt", text("caches/small.cache", content), REFUSED))
    for i, odd in enumerate(ODD):
        info = text(
            "x.trt.json", odd if i % 2 else {"names": odd, "stride": odd, "bytes": odd, "onnx": odd}
        )
        cases.append(
            case(
                "side files",
                repr(odd)[:30],
                "detect",
                both(text("x.trt", b"plan"), info),
                REFUSED,
                ("--weights", "{}/x.trt", "--device", "0"),
            )
        )
    return cases


def both(*spoils: Callable[[Path], None]) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        for one in spoils:
            one(folder)

    return spoil


def special_cases() -> List[Case]:
    cases = []
    consumers = [
        ("json2yolo", "data/annotations/people00.json"), ("coco2yolo", "data/coco.json"), ("testc", "data/coco.json"),
        ("visual", "data/list.txt"), ("visual", "data/labels/people00.txt"), ("visual", "data/images/people00.jpg"),
        ("yolo2coco", "data/images/people00.jpg"), ("yolo2coco", "data/labels/people00.txt"), ("check", "data/images/people00.jpg"),
        ("check", "data/d.yaml"), ("check", "data/labels/people00.txt"), ("train", "cfg.yaml"), ("train", "hyp.yaml"),
        ("train", "data/list.txt"), ("train", "data/images/people00.jpg"), ("train", "data/labels/people00.txt"), ("test", "data/images/people00.jpg"),
        ("detect", "pose.onnx"), ("detect", "data/images/people00.jpg"), ("int8", "small.onnx"), ("int8", "data/images/people00.jpg"),
        ("public", "tiny.pt"), ("checkpoint", "tiny.pt"), ("average", "tiny.pt"), ("onnx", "tiny.pt"), ("resume", "run/weights/last.pt"),
        ("extract", "data/list.txt"), ("trt", "small.onnx"),
    ]  # fmt: skip
    for base, name in consumers:
        for kind in SPECIALS:
            cases.append(
                case("special files", "%s is %s" % (name, kind), base, special(name, kind))
            )
    for kind in SPECIALS:
        cases.append(
            case(
                "special files",
                "a video is " + kind,
                "detect",
                special("data/x.mp4", kind),
                REFUSED,
                ("--source", "{}/data/x.mp4"),
            )
        )
        cases.append(
            case(
                "special files",
                "a cache is " + kind,
                "int8",
                both(text("caches/x", ""), special("caches/small.cache", kind)),
            )
        )
    return cases


def checkpoint_cases() -> List[Case]:
    cases = []
    for i, odd in enumerate(ODD):
        for key in ("cfg", "names", "state_dict", "meta", "version", "format"):
            if (i + len(key)) % 3 == 0:
                cases.append(
                    case(
                        "checkpoints",
                        "%s = %s" % (key, repr(odd)[:30]),
                        "checkpoint",
                        archive("tiny.pt", (key,), odd),
                    )
                )
    plain = [
        ("training", "plain", key)
        for key in ("epoch", "best", "best_epoch", "updates", "args", "hyp", "scaler")
    ]
    plain += [
        ("training", "plain", "args", key)
        for key in ("epochs", "batch_size", "img_size", "data", "device", "workers", "seed", "adam")
    ]
    plain += [("training", "plain", "hyp", "lr0"), ("training", "tensors"), ("training",)]
    for j, path in enumerate(plain):
        for i, odd in enumerate(ODD):
            if (i + j) % 7 == 0:
                cases.append(
                    case(
                        "resume",
                        "%s = %s" % (".".join(path[1:]), repr(odd)[:30]),
                        "resume",
                        archive("run/weights/last.pt", path, odd),
                    )
                )
    for name in (
        "optimizer.0.momentum_buffer",
        "optimizer.x.y",
        "optimizer.99999.exp_avg",
        "model.x",
        "z",
    ):
        cases.append(
            case(
                "resume",
                "tensor " + name,
                "resume",
                archive("run/weights/last.pt", ("training", "tensors", name), np.zeros(3)),
            )
        )
    for cut in (0, 1, 100, 1000, -1000, -30, -1):
        cases.append(
            case("checkpoints", "cut at %d" % cut, "checkpoint", cut_file("tiny.pt", cut), REFUSED)
        )
        cases.append(case("onnx", "cut at %d" % cut, "detect", cut_file("pose.onnx", cut)))
    for depth in (50, 3000):
        cases.append(
            case(
                "checkpoints",
                "module tree %d deep" % depth,
                "checkpoint",
                module_bomb(depth, 1),
                REFUSED,
            )
        )
    for width in (10, 3000):
        cases.append(
            case(
                "checkpoints",
                "%d times one module" % width,
                "checkpoint",
                module_bomb(3, width),
                REFUSED,
            )
        )
    return cases


def cut_file(name: str, size: int) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        data = (folder / name).read_bytes()
        (folder / name).write_bytes(data[:size])

    return spoil


def archive(name: str, path: Tuple, value: Any) -> Callable[[Path], None]:
    """Change a value of one of our checkpoints."""

    def change(folder: Path) -> None:
        import torch

        content = torch.load(str(folder / name), weights_only=True)
        inside = content
        for key in path[:-1]:
            inside = inside[key]
        inside[path[-1]] = torch.from_numpy(value) if isinstance(value, np.ndarray) else value
        torch.save(content, str(folder / name))

    return in_child(change)


def in_child(change: Callable[[Path], None]) -> Callable[[Path], None]:
    """Do it in a process of its own: this one must have no threads."""

    def spoil(folder: Path) -> None:
        child = os.fork()
        if child == 0:
            try:
                change(folder)
            finally:
                os._exit(0)
        os.waitpid(child, 0)

    return spoil


def module_bomb(depth: int, width: int) -> Callable[[Path], None]:
    """A public checkpoint whose layers hold one another many times over."""

    def change(folder: Path) -> None:
        import pickle
        import zipfile

        opcodes = [b"\x80\x02}X\x05\x00\x00\x00model"]

        def module(kind: bytes, children: bytes) -> bytes:
            return (b"c" + kind + b"\n)\x81}(X\x08\x00\x00\x00_modules" + children
                    + b"X\x0b\x00\x00\x00_parameters}X\x08\x00\x00\x00_buffers}ub")  # fmt: skip

        inside = module(b"torch.nn.modules.activation\nSiLU", b"}") + b"q\x01"
        names = b"".join(b"X\x04\x00\x00\x00%04dh\x01" % i for i in range(1, width))
        children = b"}(X\x04\x00\x00\x000000" + inside + names + b"u"
        for _ in range(depth):
            children = (
                b"}(X\x01\x00\x00\x000"
                + module(b"torch.nn.modules.container\nSequential", children)
                + b"u"
            )
        root = module(
            b"models.yolo\nModel",
            b"}(X\x05\x00\x00\x00model"
            + module(b"torch.nn.modules.container\nSequential", children)
            + b"u",
        )
        opcodes += [root, b"s."]
        with zipfile.ZipFile(str(folder / "tiny.pt"), "w") as file:
            file.writestr("x/data.pkl", b"".join(opcodes))
        del pickle

    return in_child(change)


def onnx_cases() -> List[Case]:
    cases = []
    for dims in [(10**12, 3, 64, 64), (10000, 3, 64, 64), (1, 3, 32768, 32768), (0, 3, 64, 64), (-1, 3, 64, 64), (1, 3, 0, 64),
                 (1, 3, -5, 64), (1, 1, 64, 64), (1, 3, 8192, 16384), (2**40, 3, 2**20, 2**20), (1024, 3, 8192, 8192), (3, 64, 64)]:  # fmt: skip
        cases.append(
            case(
                "onnx",
                "input %s" % (dims,),
                "detect",
                input_dims("pose.onnx", dims),
                EITHER if min(dims) < 0 else REFUSED,
            )
        )
        cases.append(
            case("onnx", "input %s" % (dims,), "int8", input_dims("small.onnx", dims), REFUSED)
        )
    values = [json.dumps(odd) for odd in ODD if odd != 10**400] + [
        "{",
        "(" * 300,
        "[" * 100000,
        "__import__('os')",
        "9**9**9",
        "\x1b[2J",
    ]
    for i, value in enumerate(values):
        for key in (
            "names",
            "stride",
            "nkpt",
            "imgsz",
            "task",
            "kpt_shape",
            "skeleton",
            "flip_idx",
            "kpt_sigmas",
        ):
            if (i + len(key)) % 4 == 0:
                cases.append(
                    case(
                        "metadata",
                        "%s = %s" % (key, ascii(value)[:40]),
                        "detect",
                        metadata("pose.onnx", key, value),
                    )
                )
    lies = {
        "class 99": {"classes": 99}, "class -1": {"classes": -1}, "too many": {"count": 1000}, "minus": {"count": -1},
        "3e38": {"boxes": 3e38}, "NaN": {"boxes": float("nan")}, "infinity": {"pose": float("inf")}, "score 7": {"scores": 7.0},
        "score NaN": {"scores": float("nan")}, "score -1": {"scores": -1.0},
    }  # fmt: skip
    for name, change in lies.items():
        cases.append(
            case(
                "NMS that lies",
                name,
                "detect",
                lying(change),
                REFUSED,
                ("--weights", "{}/lies.onnx", "--save-json"),
            )
        )
    for name, row in {"3e38": 3e38, "inf": np.inf, "nan": np.nan}.items():
        cases.append(
            case(
                "NMS that lies",
                "raw " + name,
                "detect",
                raw_of(row),
                EITHER,
                ("--weights", "{}/raw.onnx", "--save-json"),
            )
        )
    return cases


def input_dims(name: str, dims: Tuple) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        import onnx

        model = onnx.load(str(folder / name))
        shape = model.graph.input[0].type.tensor_type.shape
        del shape.dim[:]
        for dim in dims:
            shape.dim.add().dim_value = dim
        (folder / name).write_bytes(model.SerializeToString())

    return spoil


def metadata(name: str, key: str, value: str) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        import onnx

        model = onnx.load(str(folder / name))
        kept = [(e.key, e.value) for e in model.metadata_props if e.key != key]
        del model.metadata_props[:]
        for k, v in [*kept, (key, value)]:
            entry = model.metadata_props.add()
            entry.key, entry.value = k, v
        (folder / name).write_bytes(model.SerializeToString())

    return spoil


def lying(change: Dict[str, float]) -> Callable[[Path], None]:
    """lies.onnx: constant outputs of embedded NMS, one of which cannot be."""

    def spoil(folder: Path) -> None:
        from onnx import TensorProto, helper, numpy_helper

        indices = np.zeros((1, 5, 3), np.int32)
        indices[..., 1] = change.get("classes", 0)
        values = {
            "num_dets": np.full((1, 1), change.get("count", 2), np.int32), "det_indices": indices,
            "det_boxes": np.full((1, 5, 4), change.get("boxes", 9.0), np.float32),
            "det_pose": np.full((1, 5, 51), change.get("pose", 9.0), np.float32),
            "det_scores": np.full((1, 5, 1), change.get("scores", 0.9), np.float32),
        }  # fmt: skip
        values["det_boxes"][..., 2:] += 9
        nodes = [helper.make_node("Shape", ["input"], ["unused"])]
        outputs = []
        for name, value in values.items():
            nodes.append(helper.make_node("Identity", [name + "_"], [name]))
            kind = TensorProto.INT32 if value.dtype == np.int32 else TensorProto.FLOAT
            outputs.append(helper.make_tensor_value_info(name, kind, value.shape))
        graph = helper.make_graph(
            nodes, "lies", [helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 3, 64, 64])],
            outputs, [numpy_helper.from_array(v, k + "_") for k, v in values.items()],
        )  # fmt: skip
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
        model.ir_version = 7
        facts = {
            "names": ["person"],
            "conf_thres": 0.25,
            "iou_thres": 0.45,
            "topk": 5,
            "nkpt": 17,
            "stride": 64,
        }
        for key, value in facts.items():
            entry = model.metadata_props.add()
            entry.key, entry.value = key, json.dumps(value)
        (folder / "lies.onnx").write_bytes(model.SerializeToString())

    return spoil


def raw_of(value: float) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        row = pose_row(32, 32, 20, 40)
        row[0] = row[8] = value
        make_pose_onnx(folder / "raw.onnx", row[None])

    return spoil


def flag_cases() -> List[Case]:
    cases = []
    bad = {
        "detect": ["--conf-thres nan", "--iou-thres 2", "--max-det 0", "--max-det 99999999999", "--img-size 0", "--img-size 99999", "--img-size 1 2 3",
                   "--classes 9", "--classes -1", "--line-thickness -1", "--line-thickness 99999999", "--device 99", "--device x", "--device 0,1",
                   "--kpt-thres inf", "--source nothere", "--source {}/none/*.jpg", "--source rtsp://127.0.0.1:9/x", "--weights {}/none.onnx",
                   "--weights {}/data/d.yaml", "--half", "--save-conf", "--name ", "--project /proc/x", "--project {}/pose.onnx", "--augment --smooth",
                   "--track-lost 0", "--nothing", "--source 999"],
        "test": ["--batch-size 99999999999", "--batch-size 0", "--task none", "--conf-thres -1", "--iou-thres nan", "--max-det 0", "--study-sizes 0 --task study",
                 "--img-size 99999", "--augment --flip-test", "--data {}/none.yaml", "--data {}/pose.onnx", "--weights {}/pose.onnx {}/pose.onnx",
                 "--compare", "--results-file /proc/x/y.json", "--half", "--device 77", "--name "],
        "train": ["--epochs 0", "--epochs 99999999999", "--batch-size 0", "--batch-size 99999999999", "--img-size 0", "--img-size 99999", "--workers -1",
                  "--workers 99999", "--freeze 99999", "--device 5", "--device x,y", "--label-smoothing nan", "--label-smoothing 2", "--evolve", "--seed -1",
                  "--val-period 0", "--weights {}/none.pt", "--weights {}/pose.onnx", "--cfg {}/none.yaml", "--project /proc/x",  "--resume {}/tiny.pt"],
        "onnx": ["--batch-size 99999999999", "--batch-size 0", "--img-size 8192 --batch-size 64", "--img-size 0", "--opset 99", "--end2end --nms none", "--end2end --topk-all 0",
                 "--end2end --topk-all 99999999", "--end2end --nms static --nms-steps 100001", "--end2end --nms static --nms-steps 2",
                 "--end2end --nms static --nms-candidates 99999999", "--end2end --conf-thres nan", "--end2end --iou-thres 2", "--topk-all 5", "--device 9",
                 "--check-image {}/none.jpg", "--check-image {}/data/d.yaml", "--weights {}/none.pt", "--weights {}/pose.onnx", "--round cancel"],
        "int8": ["--calib_num 0", "--calib_num 99999999999", "--calib_batch 0", "--calib_batch 99999999999", "--calib_path {}/none", "--calib_method none",
                 "--distill -1", "--distill 100000000000", "--keep nothere", "--calib_num 5", "--cache_dir /proc/x", "--onnx {}/none.onnx", "--onnx {}/tiny.pt"],
        "trt": ["--batch-size 0", "--batch-size 99999999999", "--workspace 0", "--workspace nan", "--workspace 1e30", "--opt-level 9", "--dla -1", "--onnx {}/none.onnx"],
        "json2yolo": ["--nkpt 0", "--nkpt 99999999999", "--names a a", "--json_dir {}/none", "--image_dir {}/none", "--label_dir /proc/x", "--workers 99999999"],
        "json2coco": ["--nkpt -1", "--nkpt 99999999999", "--save_file {}/x.txt", "--save_file /proc/x.json", "--json_dir {}/tiny.pt", "--save_file {}/data/coco.json"],
        "yolo2coco": ["--nkpt 0", "--nkpt 99999999999", "--save_file {}/x", "--data_file {}/tiny.pt", "--data_file {}/none", "--save_file {}/data/coco.json"],
        "visual": ["--visual_num -1", "--line-thickness -1", "--line-thickness 99999999999", "--nkpt 0", "--nkpt 99999999999", "--data_file none", "--save_dir /proc/x",
                   "--save_dir {}/data/images"],
        "split": ["--split nan 1", "--split 0.5", "--split 2 -1", "--split 1 1 1 1", "--image_dir {}/none", "--out_path /proc/x", "--out_path {}/pose.onnx"],
        "check": ["--img-size 0", "--img-size 99999999999999999999", "--task test", "--workers 99999999", "--save_dir /proc/x", "--data {}/none.yaml"],
        "average": ["--shares 1", "--shares nan 1", "--shares 0 1", "--shares inf 1", "--out {}/tiny.pt", "--out {}/x.txt", "--weights {}/tiny.pt"],
        "checkpoint": ["--out {}/tiny.pt", "--out {}/x", "--out /proc/x.pt", "--out {}/run/weights/last.pt"],
        "public": ["--sha256 x", "--sha256 " + "0" * 64],
        "extract": ["--custom_data {}/none", "--coco_data {}/tiny.pt"],
    }  # fmt: skip
    for base, lines in bad.items():
        for line in lines:
            flags = tuple(line.split(" "))
            cases.append(
                case(
                    "flags",
                    line,
                    base,
                    nothing,
                    EITHER if "workers 9999" in line else REFUSED,
                    flags,
                )
            )
    return cases


def name_cases() -> List[Case]:
    cases = []
    for name in ("new\nline", "carriage\rreturn", "esc\x1b[2J", "bell\x07", "rtl\u202e", "-rf", "--help", " blank", "blank ", "%s%n", "'quote\"", "\udce9",
                 "emoji\U0001f600", "images", "*", "[a]", "back\\slash", "nul" * 60):  # fmt: skip
        for base in ("split", "visual", "detect", "json2yolo", "json2coco", "check"):
            more = ("--data_file", "images", "--visual_num", 0) if base == "visual" else ()
            cases.append(case("names", ascii(name), base, renamed(name), EITHER, more))
    return cases


def renamed(name: str) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        data = folder / "data"
        for part, suffix in (("images", ".jpg"), ("annotations", ".json"), ("labels", ".txt")):
            (data / part / ("people00" + suffix)).rename(data / part / (name + suffix))
        (data / "d.yaml").write_text(
            json.dumps({"train": "images", "val": "images", "names": ["person"]})
        )

    return spoil


def overwrite_cases() -> List[Case]:
    mine = b"the work of somebody"
    cases = []
    for base, name, more in [
        ("visual", "out/people00.jpg", ("--visual_num", 0)), ("json2yolo", "out/people00.txt", ()), ("json2coco", "out.json", ()),
        ("yolo2coco", "out.json", ()), ("split", "out/train.txt", ()), ("split", "out/val.txt", ()), ("split", "out/test.txt", ()),
        ("extract", "data/list-equiv.txt", ()), ("average", "new.pt", ()), ("checkpoint", "new.pt", ()), ("onnx", "tiny.onnx", ()),
        ("int8", "small-INT8.onnx", ()), ("check", "out/report.json", ()), ("check", "out/report.png", ()),
        ("detect", "out/exp/people00.jpg", ("--exist-ok",)), ("detect", "out/exp/labels/people00.txt", ("--exist-ok", "--save-txt")),
        ("detect", "out/exp/crops/person/people00_1.jpg", ("--exist-ok", "--save-crop", "--nosave")), ("detect", "out/exp/predictions.json", ("--exist-ok", "--save-json")),
        ("detect", "out/exp/summary.json", ("--exist-ok",)), ("test", "out/exp/results.json", ("--exist-ok",)), ("test", "mine.json", ("--results-file", "{}/mine.json")),
        ("train", "out/exp/weights/best.pt", ("--exist-ok",)), ("train", "out/exp/results.csv", ("--exist-ok",)), ("train", "out/exp/opt.yaml", ("--exist-ok",)),
    ]:  # fmt: skip
        cases.append(case("overwrite", name, base, text(name, mine), REFUSED, more))
    return cases


def valid_cases() -> List[Case]:
    """Nothing hostile: a campaign whose template is broken would refuse everything."""
    expected = {"trt": REFUSED, "check": REFUSED}  # no TensorRT; train and val are alike
    return [case("valid", base, base, nothing, expected.get(base, DONE)) for base in BASE]


def all_cases() -> List[Case]:
    return [
        *valid_cases(), *overwrite_cases(), *flag_cases(), *special_cases(), *name_cases(), *yaml_cases(),
        *text_cases(), *onnx_cases(), *checkpoint_cases(), *coco_cases(),
    ]  # fmt: skip
