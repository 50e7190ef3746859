"""config.pbtxt as Triton's own ModelConfig reads it, and our client against a small server."""

import http.server
import importlib.util
import json
import threading
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import IMAGES, make_pose_onnx
from tests.deploy.test_deepstream import PEOPLE, nms_onnx
from tests.models.test_export_deploy import bad, engine_of, good
from tests.scripts import run_inside
from utils.dataset.images import read_image
from utils.errors import InputError
from utils.runtime.load import load_backend
from utils.runtime.predictor import Predictor
from utils.runtime.writers import write_image

HW = (96, 160)


@pytest.fixture(scope="module")
def model_config():
    """The message ModelConfig of tritonclient; its package would also ask for grpc."""
    client = pytest.importorskip("tritonclient")
    pytest.importorskip("google.protobuf")
    path = Path(client.__file__).parent / "grpc" / "model_config_pb2.py"
    spec = importlib.util.spec_from_file_location("model_config_pb2", str(path))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.ModelConfig


def parse(model_config, folder):
    from google.protobuf import text_format

    return text_format.Parse((folder / "config.pbtxt").read_text(encoding="utf-8"), model_config())


def shapes(entries):
    return {e.name: list(e.dims) for e in entries}


def types(config):
    kinds = {v.number: v.name for v in config.DESCRIPTOR.file.enum_types_by_name["DataType"].values}
    return {e.name: kinds[e.data_type] for e in [*config.input, *config.output]}


def test_static_model(model_config, tmp_path):
    model = make_pose_onnx(tmp_path / "x.onnx", PEOPLE, hw=HW)
    good("--onnx", model, "--triton", tmp_path / "repo")
    config = parse(model_config, tmp_path / "repo" / "x")
    assert config.name == "x" and config.backend == "onnxruntime"
    assert config.default_model_filename == "model.onnx" and config.max_batch_size == 0
    assert (tmp_path / "repo" / "x" / "1" / "model.onnx").read_bytes() == model.read_bytes()
    assert shapes(config.input) == {"input": [1, 3, 96, 160]}
    assert shapes(config.output) == {"output": [1, 4, 57]}
    assert types(config) == {"input": "TYPE_FP32", "output": "TYPE_FP32"}
    assert not config.HasField("dynamic_batching")
    (warm,) = config.model_warmup
    assert warm.batch_size == 0 and list(warm.inputs["input"].dims) == [1, 3, 96, 160]
    (group,) = config.instance_group
    assert (group.count, group.Kind.Name(group.kind), list(group.gpus)) == (1, "KIND_GPU", [0])


def test_dynamic_model(model_config, tmp_path):
    model = make_pose_onnx(
        tmp_path / "x.onnx", PEOPLE, hw=None, batch=None, half=True, imgsz=[128, 192]
    )
    flags = ["--triton", tmp_path / "repo", "--name", "pose-2", "--max-batch", 16, "--instances", 2]
    good("--onnx", model, *flags, "--device", "cpu")
    config = parse(model_config, tmp_path / "repo" / "pose-2")
    assert config.max_batch_size == 16 and config.HasField("dynamic_batching")
    assert shapes(config.input) == {"input": [3, -1, -1]}
    assert shapes(config.output) == {"output": [4, 57]}
    assert types(config)["input"] == "TYPE_FP16"
    (warm,) = config.model_warmup
    assert warm.batch_size == 1 and list(warm.inputs["input"].dims) == [3, 128, 192]
    (group,) = config.instance_group
    assert (group.count, group.Kind.Name(group.kind), list(group.gpus)) == (2, "KIND_CPU", [])


def test_embedded_nms(model_config, tmp_path):
    model = nms_onnx(tmp_path / "x.onnx", PEOPLE, batch=None)
    good("--onnx", model, "--triton", tmp_path / "repo")
    config = parse(model_config, tmp_path / "repo" / "x")
    assert config.max_batch_size == 8
    assert shapes(config.output) == {
        "num_dets": [1],
        "det_indices": [4, 3],
        "det_boxes": [4, 4],
        "det_pose": [4, 51],
        "det_scores": [4, 1],
    }
    assert types(config)["num_dets"] == types(config)["det_indices"] == "TYPE_INT32"
    metadata = json.loads(config.parameters["metadata"].string_value)
    assert json.loads(metadata["conf_thres"]) == 0.5 and json.loads(metadata["topk"]) == 4


def test_the_plugin_needs_an_engine(model_config, tmp_path):
    model = nms_onnx(tmp_path / "x.onnx", PEOPLE, form="efficientnms")
    flags = ["--onnx", model, "--triton", tmp_path / "repo"]
    assert "export it with --nms static" in bad(*flags)
    assert "export it with --nms static" in bad(*flags, "--deepstream", tmp_path / "ds")
    assert not (tmp_path / "repo").exists() and not (tmp_path / "ds").exists()
    engine = engine_of(tmp_path / "x.trt")
    good(*flags, "--engine", engine)
    config = parse(model_config, tmp_path / "repo" / "x")
    assert config.backend == "tensorrt" and config.default_model_filename == "model.plan"
    assert (tmp_path / "repo" / "x" / "1" / "model.plan").read_bytes() == engine.read_bytes()


@pytest.mark.parametrize(
    "profile, batch, dims, warm",
    [
        ([[1, 3, 64, 64], [4, 3, 96, 160], [8, 3, 192, 192]], 8, [3, -1, -1], [3, 96, 160]),
        ([[1, 3, 96, 160]] * 3, 1, [3, 96, 160], [3, 96, 160]),
        ([[4, 3, 96, 160]] * 3, 0, [4, 3, 96, 160], [4, 3, 96, 160]),
    ],
)
def test_engine_of_a_dynamic_model(model_config, tmp_path, profile, batch, dims, warm):
    model = make_pose_onnx(tmp_path / "x.onnx", PEOPLE, hw=None, batch=None)
    engine = engine_of(tmp_path / "x.trt", profile=profile, topk=None, conf_thres=None)
    good("--onnx", model, "--triton", tmp_path / "repo", "--engine", engine)
    config = parse(model_config, tmp_path / "repo" / "x")
    assert config.max_batch_size == batch and shapes(config.input) == {"input": dims}
    assert list(config.model_warmup[0].inputs["input"].dims) == warm
    assert config.HasField("dynamic_batching") == (batch > 1)
    assert config.model_warmup[0].batch_size == (profile[1][0] if batch else 0)


def test_class_names_survive_the_text_format(model_config, tmp_path):
    names = ('a "quoted" \\ name', "人")
    rows = np.concatenate([PEOPLE[:, :5], PEOPLE[:, 5:6], PEOPLE[:, 5:]], 1)
    model = make_pose_onnx(tmp_path / "x.onnx", rows, hw=HW, names=names)
    good("--onnx", model, "--triton", tmp_path / "repo")
    config = parse(model_config, tmp_path / "repo" / "x")
    metadata = json.loads(config.parameters["metadata"].string_value)
    assert tuple(json.loads(metadata["names"])) == names


def test_flags(tmp_path):
    model = make_pose_onnx(tmp_path / "x.onnx", PEOPLE, hw=HW)
    flags = ["--onnx", model, "--triton", tmp_path / "repo"]
    assert "--max-batch 0" in bad(*flags, "--max-batch", 0)
    assert "--instances 0" in bad(*flags, "--instances", 0)
    assert "--name a/b" in bad(*flags, "--name", "a/b")
    assert "--device cpu" in bad(*flags, "--device", "cpu", "--deepstream", tmp_path / "ds")
    assert not (tmp_path / "repo").exists()


# --- the client ---------------------------------------------------------------------------------


def serve(config, session):
    """A server that speaks as much of Triton's HTTP protocol (KServe v2) as the client needs."""
    from google.protobuf import json_format

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self, body, **headers):
            self.send_response(200)
            for name, value in {"Content-Length": len(body), **headers}.items():
                self.send_header(name.replace("_", "-"), str(value))
            self.end_headers()
            self.wfile.write(body)

        def do_GET(self):
            if self.path != "/v2/models/%s/config" % config.name:
                self.send_error(400)
                return
            known = json_format.MessageToDict(config, preserving_proto_field_name=True)
            self.answer(json.dumps(known).encode(), Content_Type="application/json")

        def do_POST(self):
            data = self.rfile.read(int(self.headers["Content-Length"]))
            if self.path != "/v2/models/%s/infer" % config.name:
                self.send_error(400)
                return
            head = int(self.headers["Inference-Header-Content-Length"])
            asked = json.loads(data[:head])
            (given,) = asked["inputs"]
            kind = {"FP32": np.float32, "FP16": np.float16}[given["datatype"]]
            images = np.frombuffer(data[head:], kind).reshape(given["shape"])
            names = [output["name"] for output in asked["outputs"]]
            outputs, parts = [], []
            for name, value in zip(names, session.run(names, {given["name"]: images})):
                raw = np.ascontiguousarray(value).tobytes()
                kind = {"float32": "FP32", "int32": "INT32"}[str(value.dtype)]
                size = {"binary_data_size": len(raw)}
                outputs.append({"name": name, "datatype": kind, "shape": value.shape,
                                "parameters": size})  # fmt: skip
                parts.append(raw)
            reply = json.dumps({"model_name": config.name, "outputs": outputs}).encode()
            self.answer(
                reply + b"".join(parts),
                Content_Type="application/octet-stream",
                Inference_Header_Content_Length=len(reply),
            )

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


@pytest.mark.parametrize(
    "kind", ["raw", "half and dynamic", "embedded NMS", "YOLOv8", "fixed batch"]
)
def test_client_finds_what_detect_finds(model_config, tmp_path, kind):
    try:
        import tritonclient.http  # noqa: F401
    except (ImportError, RuntimeError):
        pytest.skip("no tritonclient[http]")
    path = tmp_path / "x.onnx"
    if kind == "embedded NMS":
        nms_onnx(path, PEOPLE, batch=None)
    elif kind == "YOLOv8":
        turned_onnx(path)
    elif kind == "half and dynamic":
        make_pose_onnx(path, PEOPLE, hw=None, batch=None, half=True)
    else:
        make_pose_onnx(path, PEOPLE, hw=HW, batch=3 if kind == "fixed batch" else 1)
    good("--onnx", path, "--triton", tmp_path / "repo", "--name", "pose")
    backend = load_backend(str(path), "cpu")
    server = serve(parse(model_config, tmp_path / "repo" / "pose"), backend.session)
    url = "127.0.0.1:%d" % server.server_address[1]
    try:
        from deploy.triton.client import TritonBackend

        images = [read_image(str(p)) for p in sorted(IMAGES.glob("*.jpg"))]
        ours = Predictor(TritonBackend(url, "pose"))(images)
        for mine, theirs in zip(ours, Predictor(backend)(images)):
            assert mine.count
            for a, b in zip(mine, theirs):
                np.testing.assert_array_equal(a, b)
        done = run_inside(
            "deploy/triton/client.py", "--url", url, "--model", "pose",
            "--images", IMAGES, "--output", tmp_path / "out",
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("persons") == len(list((tmp_path / "out").iterdir())) == 3
        for i in range(3):
            write_image(tmp_path / "frames" / ("%d.png" % i), images[0])
        done = run_inside(
            "deploy/triton/client.py", "--url", url, "--model", "pose", "--track",
            "--images", tmp_path / "frames", "--output", tmp_path / "tracks",
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        ids = " ".join(str(i + 1) for i in range(ours[0].count))
        found = "%d persons, IDs %s" % (ours[0].count, ids)
        lines = [line for line in done.stdout.splitlines() if ", IDs " in line]
        assert [line.split(": ")[1] for line in lines] == [found] * 3
        wrong = run_inside("deploy/triton/client.py", "--url", url, "--model", "other")
        assert wrong.returncode == 1 and "no model other there" in wrong.stderr
        gone = TritonBackend(url, "pose")
        gone._model = "unloaded"
        with pytest.raises(InputError, match="Triton did not answer"):
            Predictor(gone)(images)
    finally:
        server.shutdown()
        server.server_close()


def test_client_without_a_server(model_config):
    done = run_inside("deploy/triton/client.py", "--url", "127.0.0.1:9", "--model", "x")
    assert done.returncode == 1 and done.stderr.startswith("error: --url 127.0.0.1:9")
    assert done.stderr.count("\n") == 1


def turned_onnx(path):
    """An ONNX in the layout of YOLOv8: (B, 4 + nc + 3K, N)."""
    import onnx
    from onnx import TensorProto, helper

    nobody = np.tile(PEOPLE[:1] * np.where(np.arange(57) == 4, 0, 1), (76, 1))
    people = np.concatenate([PEOPLE, nobody]).astype(np.float32)
    rows = np.concatenate([people[:, :4], people[:, 4:5], people[:, 6:]], 1)
    make_pose_onnx(path, np.concatenate([rows[:, :4], rows[:, 4:5], rows[:, 4:]], 1), hw=HW)
    model = onnx.load(str(path))
    graph = model.graph
    del graph.output[:], model.metadata_props[:]
    weights = {w.name: w for w in graph.initializer}
    weights["rows"].CopyFrom(onnx.numpy_helper.from_array(rows[None].astype(np.float32), "rows"))
    on_cx = np.zeros((1, 1, rows.shape[1]), np.float32)
    weights["on_cx"].CopyFrom(onnx.numpy_helper.from_array(on_cx, "on_cx"))
    graph.node.append(helper.make_node("Transpose", ["output"], ["output0"], perm=[0, 2, 1]))
    shape = [1, rows.shape[1], len(rows)]
    graph.output.append(helper.make_tensor_value_info("output0", TensorProto.FLOAT, shape))
    for key, value in (("task", "pose"), ("names", "{0: 'person'}"), ("kpt_shape", "[17, 3]"),
                       ("stride", "32"), ("imgsz", str(list(HW)))):  # fmt: skip
        entry = model.metadata_props.add()
        entry.key, entry.value = key, value
    onnx.save(model, str(path))
