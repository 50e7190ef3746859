"""Both formats of a .pt, and what is refused.

One long file: the hostile cases share what makes them.
"""

import os
import pickle
import struct
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from models.checkpoint import get_args_parser, load_checkpoint, main, save_checkpoint  # noqa: E402
from models.yolo import Model  # noqa: E402
from tests.conftest import ROOT, SHARED, needs_shared, randomized, tiny_cfg  # noqa: E402
from utils.errors import InputError  # noqa: E402

ORIGINALS = [
    "original-tiny-l6-random",
    "original-tiny-s6-random",
    "original-tiny-s6-lite-random",
]


@pytest.fixture
def model():
    torch.manual_seed(0)
    return randomized(Model(tiny_cfg(), nc=2, nkpt=5))


def outputs(m):
    with torch.no_grad():
        return m.eval()(torch.rand(1, 3, 64, 128, generator=torch.Generator().manual_seed(1)))


def test_own_format_round_trip(tmp_path, model):
    model.names = ["cat", "dog"]
    save_checkpoint(tmp_path / "x.pt", model, {"epoch": 3, "note": "é"})
    loaded = load_checkpoint(tmp_path / "x.pt")
    assert loaded.model.names == ["cat", "dog"]
    assert loaded.meta == {"epoch": 3, "note": "é"}
    assert loaded.model.cfg == model.cfg
    assert torch.equal(outputs(loaded.model), outputs(model))


def test_own_format_loads_with_weights_only(tmp_path, model):
    save_checkpoint(tmp_path / "x.pt", model, half=True)
    content = torch.load(str(tmp_path / "x.pt"), weights_only=True)
    assert content["format"] == "yolo-pose-checkpoint"
    assert content["state_dict"]["model.0.conv.conv.weight"].dtype == torch.float16


def test_fp16_round_trip(tmp_path, model):
    save_checkpoint(tmp_path / "x.pt", model, half=True)
    half = load_checkpoint(tmp_path / "x.pt").model
    assert all(p.dtype == torch.float32 for p in half.parameters())
    torch.testing.assert_close(half.head.m[0].weight, model.head.m[0].weight, rtol=1e-3, atol=1e-4)


def test_whole_pickled_module_is_read_as_data(tmp_path, model):
    """The layout of the public files: a pickled module tree, FP16, EMA preferred."""
    model.yaml = dict(model.cfg)
    other = Model(tiny_cfg(), nc=2, nkpt=5)
    content = {"epoch": 7, "model": other.half(), "ema": model.half(), "best_fitness": None}
    torch.save(content, str(tmp_path / "public.pt"))
    loaded = load_checkpoint(tmp_path / "public.pt")
    assert loaded.meta["epoch"] == 7
    torch.testing.assert_close(outputs(loaded.model), outputs(model.float()))


def test_numpy_scalars_and_optimizer_state_do_not_disturb(tmp_path, model):
    model.yaml = dict(model.cfg)
    content = {
        "model": model,
        "best_fitness": np.float64(0.5),
        "optimizer": {"state": {0: {"momentum_buffer": torch.ones(3)}}},
    }
    torch.save(content, str(tmp_path / "public.pt"))
    assert load_checkpoint(tmp_path / "public.pt").model.nkpt == 5


def test_changed_anchors_survive(tmp_path, model):
    model.yaml = dict(model.cfg)
    model.head.anchors *= 1.5
    model.head.anchor_grid *= 1.5
    expected = outputs(model)
    torch.save({"model": model}, str(tmp_path / "public.pt"))
    loaded = load_checkpoint(tmp_path / "public.pt").model
    torch.testing.assert_close(outputs(loaded), expected, rtol=1e-4, atol=1e-2)
    assert loaded.cfg["anchors"][0][0] == pytest.approx(19 * 1.5)


@needs_shared
@pytest.mark.parametrize("name", ORIGINALS)
@pytest.mark.parametrize("fuse", [False, True])
def test_original_checkpoints_compute_what_the_original_code_did(name, fuse):
    model = load_checkpoint(SHARED / "weights" / (name + ".pt")).model
    data = np.load(str(SHARED / "weights" / (name + ".npz")))
    model = model.fuse() if fuse else model
    with torch.no_grad():
        got = model(torch.from_numpy(data["input"]).float() / 255).numpy()
    difference = np.abs(got - data["output"])[0]
    is_conf = np.zeros(57, bool)
    is_conf[[4, 5]] = is_conf[8::3] = True
    assert difference[:, ~is_conf].max() <= 1e-3
    assert difference[:, is_conf].max() <= 1e-4


@needs_shared
def test_original_survives_conversion(tmp_path):
    source = SHARED / "weights" / "original-tiny-s6-lite-random.pt"
    out = tmp_path / "own.pt"
    main(get_args_parser().parse_args(["--weights", str(source), "--out", str(out)]))
    a, b = load_checkpoint(source).model, load_checkpoint(out).model
    assert torch.equal(outputs(a), outputs(b))
    assert b.cfg["act_by_layer"] == {10: "SiLU"}


# --- hostile and damaged files ---------------------------------------------------------------


class Call:
    """Pickles as a call of `function(*args)`."""

    def __init__(self, function, *args):
        self.function, self.args = function, args

    def __reduce__(self):
        return self.function, self.args


def write_zip(path, data, compression=zipfile.ZIP_STORED, **members):
    with zipfile.ZipFile(str(path), "w", compression) as archive:
        archive.writestr("x/data.pkl", data)
        for name, content in members.items():
            archive.writestr("x/" + name, content)
    return path


def hostile_pickles(marker):
    touch = "touch %s" % marker
    return {
        "system": Call(os.system, touch),
        "eval": Call(eval, "open(%r, 'w')" % marker),
        "exec": Call(exec, "open(%r, 'w')" % marker),
        "nested": {"model": [{"a": Call(list, (Call(os.system, touch),))}]},
        "getattr": Call(getattr, Call(__import__, "os"), "system"),
    }


@pytest.mark.parametrize("kind", ["system", "eval", "exec", "nested", "getattr"])
def test_hostile_pickles_are_refused_by_name(tmp_path, kind):
    marker = tmp_path / "executed"
    path = write_zip(tmp_path / "bad.pt", pickle.dumps(hostile_pickles(str(marker))[kind], 2))
    names = {
        "system": r"posix\.system|nt\.system",
        "eval": r"__builtin__\.eval",
        "exec": r"__builtin__\.exec",
        "nested": r"system|__builtin__\.list",
        "getattr": r"__builtin__\.(getattr|__import__)",
    }
    with pytest.raises(InputError, match=names[kind]) as error:
        load_checkpoint(path)
    assert "nothing was executed" in str(error.value) and "\n" not in str(error.value)
    assert not marker.exists()


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
def test_hostile_pickles_of_every_protocol(tmp_path, protocol):
    marker = tmp_path / "executed"
    path = write_zip(
        tmp_path / "bad.pt", pickle.dumps(Call(os.system, "touch %s" % marker), protocol)
    )
    with pytest.raises(InputError, match="system"):
        load_checkpoint(path)
    assert not marker.exists()


@pytest.mark.parametrize(
    "name",
    ["torch.nn.modules.linear.Linear", "models.common.Unknown", "torch.load", "builtins.type"],
)
def test_names_outside_the_list_are_refused(tmp_path, name):
    module, attribute = name.rsplit(".", 1)
    data = b"c" + module.encode() + b"\n" + attribute.encode() + b"\n."
    with pytest.raises(InputError, match=name.replace(".", r"\.")):
        load_checkpoint(write_zip(tmp_path / "bad.pt", data))


def test_allowed_callables_cannot_reach_others(tmp_path):
    """Dotted names (protocol 4) must not walk attributes of an allowed object."""
    data = b"\x80\x04\x8c\x0bcollections\x8c\x16OrderedDict.__init__.x\x93."
    with pytest.raises(InputError, match="refused"):
        load_checkpoint(write_zip(tmp_path / "bad.pt", data))


def test_zip_bomb_header_is_refused_at_once(tmp_path):
    """A member that claims 10 GB in a file of a few hundred bytes."""
    path = write_zip(tmp_path / "bomb.pt", pickle.dumps({}), **{"data/0": b"1234"})
    raw = bytearray(path.read_bytes())
    start = raw.rindex(b"PK\x01\x02")  # central directory entry of the last member
    struct.pack_into("<II", raw, start + 20, 0xFFFFFFF0, 0xFFFFFFF0)
    path.write_bytes(bytes(raw))
    with pytest.raises(InputError, match="claim"):
        load_checkpoint(path)


def test_compressed_members_are_refused(tmp_path):
    path = write_zip(tmp_path / "bomb.pt", b"\0" * 10_000_000, zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 100_000
    with pytest.raises(InputError, match="compressed"):
        load_checkpoint(path)


def test_pickle_that_asks_for_absurd_memory(tmp_path):
    data = b"\x80\x04\x8e" + struct.pack("<Q", 10 << 30) + b"x."
    with pytest.raises(InputError, match="damaged"):
        load_checkpoint(write_zip(tmp_path / "bad.pt", data))


def test_storage_smaller_than_its_tensor(tmp_path, model):
    save_checkpoint(tmp_path / "x.pt", model)
    with zipfile.ZipFile(str(tmp_path / "x.pt")) as archive:
        members = {i.filename: archive.read(i) for i in archive.infolist()}
    name = next(n for n in members if n.endswith("/data/0"))
    members[name] = members[name][:-4]
    with zipfile.ZipFile(str(tmp_path / "y.pt"), "w") as archive:
        for key, content in members.items():
            archive.writestr(key, content)
    with pytest.raises(InputError, match="storage 0 has"):
        load_checkpoint(tmp_path / "y.pt")


@pytest.mark.parametrize("keep", [0, 10, 1000, -100])
def test_truncated_file(tmp_path, model, keep):
    save_checkpoint(tmp_path / "x.pt", model)
    data = (tmp_path / "x.pt").read_bytes()
    (tmp_path / "cut.pt").write_bytes(data[:keep])
    with pytest.raises(InputError, match=r"cut\.pt.*(truncated|damaged)"):
        load_checkpoint(tmp_path / "cut.pt")


@pytest.mark.parametrize("change", ["name", "version", "size", "place"])
def test_damaged_directory(tmp_path, model, change):
    save_checkpoint(tmp_path / "x.pt", model)
    data = bytearray((tmp_path / "x.pt").read_bytes())
    entry = data.rfind(b"PK\x01\x02")
    if change == "name":  # marked as UTF-8, which it is not
        data[entry + 9] |= 8
        data[entry + 46] = 0xFF
    elif change == "version":
        data[entry + 6] = 255
    elif change == "place":  # of the directory: each member lies before the file
        end = data.rfind(b"PK\x06\x06")
        start = int.from_bytes(data[end + 48 : end + 56], "little")
        data[end + 48 : end + 56] = (start + 10**6).to_bytes(8, "little")
    else:
        end = data.rfind(b"PK\x06\x06")
        data[end + 40 : end + 48] = b"\xfe" * 7 + b"\x7f"
    (tmp_path / "x.pt").write_bytes(data)
    with pytest.raises(InputError, match=r"^`weights` .*x\.pt: truncated or not a checkpoint"):
        load_checkpoint(tmp_path / "x.pt")


def test_missing_file(tmp_path):
    wanted = (
        r"^`weights` .*none\.pt: no such file; expected a \.pt checkpoint, such as weights/yolo"
    )
    with pytest.raises(InputError, match=wanted):
        load_checkpoint(tmp_path / "none.pt")
    with pytest.raises(InputError, match=r"^/.*none\.pt: no such file"):
        load_checkpoint(tmp_path / "none.pt", "")


@pytest.mark.parametrize(
    "content",
    [{"model": {"a": torch.ones(2)}}, {"state_dict": {}}, torch.ones(3), {"model": None}],
)
def test_another_network(tmp_path, content):
    torch.save(content, str(tmp_path / "other.pt"))
    with pytest.raises(InputError, match=r"other\.pt"):
        load_checkpoint(tmp_path / "other.pt")


def test_tensors_that_do_not_fit_are_counted(tmp_path, model):
    save_checkpoint(tmp_path / "x.pt", model)
    content = torch.load(str(tmp_path / "x.pt"), weights_only=True)
    content["state_dict"].pop("model.0.conv.conv.weight")
    content["state_dict"]["extra"] = torch.ones(1)
    torch.save(content, str(tmp_path / "x.pt"))
    with pytest.raises(InputError, match="1 missing.*1 unknown"):
        load_checkpoint(tmp_path / "x.pt")


def test_failed_save_keeps_the_old_file(tmp_path, model, monkeypatch):
    save_checkpoint(tmp_path / "x.pt", model)
    before = (tmp_path / "x.pt").read_bytes()

    def fail(path, data):
        with path.open("wb") as f:
            f.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", fail)
    with pytest.raises(InputError, match="x.pt: cannot be written .No space"):
        save_checkpoint(tmp_path / "x.pt", model)
    assert (tmp_path / "x.pt").read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["x.pt"]


# --- structures that would eat memory, time or the stack --------------------------------------


def refused(tmp_path, data, seconds=60.0):
    started = time.monotonic()
    with pytest.raises(InputError) as error:
        load_checkpoint(write_zip(tmp_path / "bad.pt", data, **{"data/0": b"1234"}))
    assert time.monotonic() - started < seconds
    assert "\n" not in str(error.value)
    return str(error.value)


STORAGE = b"(X\7\0\0\0storagectorch\nFloatStorage\nX\1\0\0\0" + b"0X\3\0\0\0cpuK\1tQ"


def tensor(size, stride):
    """Pickle of a tensor over the one float of STORAGE."""

    def ints(values):
        return b"(" + b"".join(b"J" + struct.pack("<i", v) for v in values) + b"t"

    return (
        b"ctorch._utils\n_rebuild_tensor_v2\n(" + STORAGE + b"K\0" + ints(size) + ints(stride)
        + b"I00\n}tR"
    )  # fmt: skip


def test_small_tensor_pickle_is_well_formed(tmp_path):
    path = write_zip(tmp_path / "x.pt", b"\x80\2}X\1\0\0\0a" + tensor([1], [1]) + b"s.")
    with pytest.raises(InputError, match="not a YOLO-Pose checkpoint"):
        load_checkpoint(path)


def test_stride_zero_tensor(tmp_path):
    data = b"\x80\2}X\1\0\0\0a" + tensor([20_000_000], [0]) + b"s."
    assert "larger than its storage" in refused(tmp_path, data)


@pytest.mark.parametrize("size, stride", [([-1], [1]), ([1], [-1]), ([1, 1], [1]), ([2], [1])])
def test_tensor_outside_its_storage(tmp_path, size, stride):
    refused(tmp_path, b"\x80\2}X\1\0\0\0a" + tensor(size, stride) + b"s.")


def test_attributes_for_a_tensor(tmp_path):
    refused(tmp_path, b"\x80\2" + tensor([1], [1]) + b"}X\1\0\0\0aK\1sb.")


@pytest.mark.parametrize("name", [b"torch._utils\n_rebuild_parameter", b"builtins\nset"])
def test_attributes_for_a_function(tmp_path, name):
    refused(tmp_path, b"\x80\2c" + name + b"\nN}X\x0c\0\0\0__defaults__Ns\x86b.")


def test_deeply_nested_key(tmp_path):
    refused(tmp_path, b"\x80\2})" + b"\x85" * 200_000 + b"Ns.")


def test_memo_number_out_of_all_proportion(tmp_path):
    refused(tmp_path, b"\x80\2}r" + struct.pack("<I", 1_000_000_000) + b".")


def test_call_of_a_plain_value(tmp_path):
    refused(tmp_path, b"\x80\2X\1\0\0\0a)R.")


def test_opcodes_that_no_checkpoint_needs(tmp_path):
    assert "INST" in refused(tmp_path, b"(ios\nsystem\n.")


def test_lists_that_hold_each_other(tmp_path, model):
    shared = [1]
    for _ in range(60):
        shared = [shared, shared]
    model.yaml = dict(model.cfg, note=shared)
    torch.save({"model": model}, str(tmp_path / "x.pt"))
    started = time.monotonic()
    with pytest.raises(InputError, match="values"):
        load_checkpoint(tmp_path / "x.pt")
    assert time.monotonic() - started < 60


@pytest.mark.parametrize(
    "change",
    [
        {"width_multiple": 4.0},
        {"width_multiple": float("inf")},
        {"depth_multiple": 3000},
        {"nc": 10**9},
        {"head": [[99, 1, "Conv", [8]]]},
        {"anchors": [[10**9] * 6] * 4},
        {"anchors": None},
        {"act": True},
    ],
    ids=str,
)
def test_cfg_that_asks_for_another_network(tmp_path, model, change):
    save_checkpoint(tmp_path / "x.pt", model)
    content = torch.load(str(tmp_path / "x.pt"), weights_only=True)
    content["cfg"].update(change)
    torch.save(content, str(tmp_path / "x.pt"))
    started = time.monotonic()
    with pytest.raises(InputError, match="not a YOLO-Pose checkpoint"):
        load_checkpoint(tmp_path / "x.pt")
    assert time.monotonic() - started < 60


def test_maps_of_any_size_are_not_computed(tmp_path, model, monkeypatch):
    """The tensors of a layer do not tell how large its output is."""
    from models.common import Conv

    save_checkpoint(tmp_path / "x.pt", model)
    forward = Conv.forward

    def only_shapes(self, x):
        assert len(x) == 0
        return forward(self, x)

    monkeypatch.setattr(Conv, "forward", only_shapes)
    assert load_checkpoint(tmp_path / "x.pt").model.stride.tolist() == [8, 16, 32, 64]


def test_a_checkpoint_is_read_without_torchdynamo(tmp_path, model):
    """Its import takes as long as that of PyTorch; meta tensors cause it, see models/yolo.py."""
    save_checkpoint(tmp_path / "x.pt", model)
    code = "import sys; from models.checkpoint import load_checkpoint; load_checkpoint(sys.argv[1])"
    code += "; assert not any(m.startswith('torch._dynamo') for m in sys.modules)"
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "x.pt")], cwd=str(ROOT), check=True)


# --- what changes results is refused, not ignored ---------------------------------------------


@pytest.mark.parametrize("what", ["eps", "slope", "empty"])
def test_modules_that_compute_something_else(tmp_path, what):
    model = Model(tiny_cfg(act="LeakyReLU"))
    model.yaml = dict(model.cfg)
    if what == "eps":
        model.model[1].bn.eps = 1e-5
    elif what == "slope":
        model.model[1].act.negative_slope = 0.1
    else:
        model.model = torch.nn.Sequential()
    torch.save({"model": model}, str(tmp_path / "x.pt"))
    with pytest.raises(InputError, match={"eps": "eps", "slope": "slope", "empty": "x.pt"}[what]):
        load_checkpoint(tmp_path / "x.pt")


def test_array_of_the_best_fitness_does_not_disturb(tmp_path, model):
    """Checkpoints that were not stripped hold NumPy values."""
    model.yaml = dict(model.cfg)
    content = {"model": model, "best_fitness": np.array([0.5]), "results": np.float32(1)}
    torch.save(content, str(tmp_path / "public.pt"))
    assert load_checkpoint(tmp_path / "public.pt").model.nkpt == 5


def test_names_must_match_the_classes(tmp_path, model):
    model.names = ["one"]
    with pytest.raises(ValueError, match="1 names for 2 classes"):
        save_checkpoint(tmp_path / "x.pt", model)
    model.yaml = dict(model.cfg)
    torch.save({"model": model}, str(tmp_path / "public.pt"))
    with pytest.raises(InputError, match="1 names for 2 classes"):
        load_checkpoint(tmp_path / "public.pt")


def test_what_cannot_be_loaded_cannot_be_saved(tmp_path, model):
    with pytest.raises(ValueError, match="plain"):
        save_checkpoint(tmp_path / "x.pt", model, {"best": np.float64(1)})
    with pytest.raises(ValueError, match="fused"):
        save_checkpoint(tmp_path / "x.pt", model.fuse())


def test_fp16_file_keeps_statistics_and_anchors(tmp_path, model):
    model.model[1].bn.running_var.fill_(1e5)
    model.head.anchor_grid[0, 0, 0] = 303.37
    save_checkpoint(tmp_path / "x.pt", model, half=True)
    half = load_checkpoint(tmp_path / "x.pt").model
    assert torch.equal(half.model[1].bn.running_var, model.model[1].bn.running_var)
    assert torch.equal(half.half().head.anchor_grid, model.head.anchor_grid)


def test_shipped_weights_find_the_astronaut():
    from tests.conftest import IMAGES, ROOT
    from utils.dataset.images import read_image
    from utils.runtime.load import load_backend
    from utils.runtime.predictor import Predictor

    backend = load_backend(str(ROOT / "weights" / "yolov5n6_pose.pt"), "cpu")
    predictor = Predictor(backend, conf_thres=0.4)
    (poses,) = predictor([read_image(str(IMAGES / "astronaut.jpg"))])
    assert poses.count == 1 and poses.scores[0] > 0.5
    nose, left_eye, right_eye = poses.keypoints[0, :3, :2]
    assert np.abs(nose - [220, 112]).max() < 15  # looked up in the image
    assert right_eye[0] < nose[0] < left_eye[0]
