"""The parser of DeepStream on outputs of ONNX Runtime, through an emulated gst-nvinfer."""

import shutil
import subprocess

import numpy as np
import pytest

from tests.conftest import ROOT, make_pose_onnx, pose_row
from tests.deploy.nvinfer import HERE, SOURCES, Parser, attach, network_input, object_meta, scaling
from utils.graph.nms import Nms
from utils.runtime.backend import Detections
from utils.runtime.load import load_backend
from utils.runtime.predictor import Predictor

needs_gcc = pytest.mark.skipif(shutil.which("g++") is None, reason="no g++")
NET = (96, 160)


def probe():
    """deploy/deepstream/pose_probe.py as a module."""
    import importlib.util

    spec = importlib.util.spec_from_file_location("pose_probe", str(SOURCES / "pose_probe.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def parser(tmp_path_factory):
    return Parser(tmp_path_factory.mktemp("parser"))


def nms_onnx(path, rows, names=("person",), form="static", topk=4, conf=0.5, **flags):
    """A model of constant predictions with embedded NMS."""
    import onnx

    from utils.export.onnx_export import add_metadata
    from utils.graph.nms import add_nms

    make_pose_onnx(path, rows, hw=NET, names=names, **flags)
    model = onnx.load(str(path))
    add_metadata(model, {"conf_thres": conf, "iou_thres": 0.45, "topk": topk, "nms": form})
    add_nms(model, len(names), Nms(form, conf, 0.45, topk))
    onnx.save(model, str(path))
    return path


PEOPLE = np.stack(
    [
        pose_row(62, 50, 20, 40, 0.9),
        pose_row(80, 40, 14, 50, 0.8),
        pose_row(98, 55, 24, 60, 0.7),
        pose_row(98, 55, 24, 60, 0.3),
    ]
)


def frame_poses(parser, found, frame_hw, net_hw=NET, **flags):
    """(boxes, keypoints, number dropped) in frame pixels, by parser, nvinfer and probe."""
    kept, dropped = attach(parser(found, net_hw, frame_hw, **flags), frame_hw, net_hw)
    boxes = np.array([[o.left, o.top, o.left + o.width, o.top + o.height] for o in kept])
    points = [probe().keypoints(object_meta(o)) for o in kept]
    return boxes.reshape(-1, 4), points, dropped


@needs_gcc
@pytest.mark.parametrize(
    "frame_hw", [(720, 1280), (480, 640), (1080, 1920), (333, 501), (640, 427)]
)
def test_poses_equal_those_of_detect(parser, tmp_path, frame_hw):
    """Within the rounding of the scaled size: a network pixel, and the two odd lines."""
    backend = load_backend(str(nms_onnx(tmp_path / "x.onnx", PEOPLE)), "cpu")
    image = np.full((*frame_hw, 3), 90, np.uint8)
    found = backend(network_input(image, NET))
    boxes, points, dropped = frame_poses(parser, found, frame_hw)
    (wanted,) = Predictor(backend)([image])
    assert dropped == 0 and len(points) == wanted.count == 3
    tolerance = 2 / min(scaling(frame_hw, NET).ratio) + 2
    for ours, theirs in zip(points, wanted.keypoints):
        # the grey level of the border moves cx in this model, and no keypoint
        np.testing.assert_allclose(ours[:, :2], theirs[:, :2], atol=tolerance)
        np.testing.assert_allclose(ours[:, 2], theirs[:, 2], atol=1e-6)
    np.testing.assert_allclose(boxes[:, 1::2], wanted.boxes[:, 1::2], atol=tolerance)


@needs_gcc
def test_poses_are_equal_where_both_scale_alike(parser, tmp_path):
    """640 x 384 fits 160 x 96 without a border: equal but for float rounding."""
    backend = load_backend(str(nms_onnx(tmp_path / "x.onnx", PEOPLE)), "cpu")
    image = np.full((384, 640, 3), 90, np.uint8)
    boxes, points, _ = frame_poses(parser, backend(network_input(image, NET)), (384, 640))
    (wanted,) = Predictor(backend)([image])
    np.testing.assert_allclose(np.array(points), wanted.keypoints, atol=1e-3)
    np.testing.assert_allclose(boxes, wanted.boxes, atol=0.1)  # 1/64 px inside the frame


def detections(boxes, topk=6, cls=0):
    """Detections of one image with these xyxy network boxes."""
    n = len(boxes)
    found = Detections(
        np.array([[n]], np.int32),
        np.full((1, topk, 3), -1, np.int32),
        np.zeros((1, topk, 4), np.float32),
        np.zeros((1, topk, 51), np.float32),
        np.zeros((1, topk, 1), np.float32),
    )
    found.det_boxes[0, :n] = boxes
    found.det_indices[0, :n] = [[0, cls, i] for i in range(n)]
    found.det_scores[0, :n, 0] = np.linspace(0.9, 0.6, n)
    rng = np.random.default_rng(0)
    found.det_pose[0, :n] = rng.uniform(0, 90, (n, 51))
    return found


@needs_gcc
@pytest.mark.parametrize(
    "frame_hw", [(720, 1280), (1280, 720), (333, 501), (1080, 1920), (97, 161)]
)
def test_nvinfer_drops_nobody_at_the_edge(parser, frame_hw):
    """Boxes that reach beyond the frame, as those of persons whom its edge cuts do."""
    found = detections([[-20, -20, 70, 50], [60, 40, 200, 130], [-30, -30, 190, 126]])
    boxes, points, dropped = frame_poses(parser, found, frame_hw)
    assert dropped == 0 and len(boxes) == 3
    limit = np.array([frame_hw[1], frame_hw[0]] * 2)
    assert (boxes >= 0).all() and (boxes <= limit).all()
    # the keypoints are where they were, whatever became of the box
    s = scaling(frame_hw, NET)
    wanted = found.det_pose[0, :3].reshape(3, 17, 3).astype(float)
    wanted[..., 0] = (wanted[..., 0] - s.offset[1]) / s.ratio[1]
    wanted[..., 1] = (wanted[..., 1] - s.offset[0]) / s.ratio[0]
    np.testing.assert_allclose(np.array(points), wanted, atol=0.02)


@needs_gcc
def test_boxes_outside_the_frame_are_left_out(parser):
    """Above and below a 16:9 frame lies the border of the network input."""
    assert parser(detections([[10, 0, 40, 2.0]]), (160, 160), (720, 1280)) == []
    assert len(parser(detections([[10, 0, 40, 60.0]]), (160, 160), (720, 1280))) == 1
    assert parser(detections([[10, 60, np.nan, 90.0]]), (160, 160), (720, 1280)) == []


@needs_gcc
def test_classes_thresholds_and_counts(parser):
    found = detections([[10, 10, 40, 50], [50, 10, 80, 50], [90, 10, 120, 50]], cls=1)
    assert parser(found, NET, NET) == []  # one class configured, and it is 0
    assert [o.cls for o in parser(found, NET, NET, classes=2)] == [1, 1, 1]
    assert len(parser(found, NET, NET, classes=2, threshold=0.7)) == 2
    found.num_dets[:] = 100  # more than there is room for
    assert len(parser(found, NET, NET, classes=2, threshold=0.5)) == 3
    found.num_dets[:] = -1
    assert parser(found, NET, NET, classes=2) == []


@needs_gcc
@pytest.mark.parametrize("name", Detections._fields)
def test_a_missing_output_is_refused(parser, name, capfd):
    assert parser(detections([[10, 10, 40, 50]]), NET, NET, broken=name) is None
    assert "no output %s" % name in capfd.readouterr().err


@needs_gcc
def test_the_exported_function_takes_frames_of_16_to_9(parser):
    (row,) = parser(detections([[10, 0, 60, 96]]), (96, 96), (0, 0))
    (same,) = parser(detections([[10, 0, 60, 96]]), (96, 96), (1080, 1920))
    assert row[:6] == same[:6] and row.height < 54.01


@pytest.mark.skipif(shutil.which("cmake") is None or shutil.which("g++") is None, reason="no cmake")
def test_cmake_builds_the_library(tmp_path):
    source = tmp_path / "source"
    shutil.copytree(str(SOURCES), str(source))

    def cmake(*flags):
        return subprocess.run(
            ["cmake", *map(str, flags)], capture_output=True, text=True, cwd=str(tmp_path)
        )

    missing = cmake("-S", source, "-B", tmp_path / "none", "-DDEEPSTREAM=/nowhere")
    assert missing.returncode != 0 and "-DDEEPSTREAM=" in missing.stderr
    assert cmake("-S", source, "-B", tmp_path / "b", "-DDEEPSTREAM=%s" % HERE).returncode == 0
    assert cmake("--build", tmp_path / "b").returncode == 0
    symbols = subprocess.run(
        ["nm", "-D", str(source / "libnvdsinfer_yolo_pose.so")], capture_output=True, text=True
    ).stdout
    assert " T NvDsInferParseEmbeddedPoses" in symbols


# --- the probe ----------------------------------------------------------------------------------


class Slot:
    """A struct of pyds; colours have a method."""

    def set(self, *values):
        self.values = values

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        slot = Slot()
        setattr(self, name, slot)
        return slot


class Display:
    def __init__(self):
        self.line_params = [Slot() for _ in range(16)]
        self.circle_params = [Slot() for _ in range(16)]


class Pyds:
    """The functions of pyds that the probe calls."""

    class NvDsFrameMeta:
        cast = staticmethod(lambda data: data)

    class NvDsObjectMeta:
        cast = staticmethod(lambda data: data)

    def __init__(self):
        self.shown = []

    def nvds_acquire_display_meta_from_pool(self, batch_meta):
        return Display()

    def nvds_add_display_meta_to_frame(self, frame_meta, display):
        self.shown.append((frame_meta, display))


class Node:
    """A GList of pyds: `next` of the last one raises StopIteration."""

    def __init__(self, values):
        self.data, self._rest = values[0], values[1:]

    @property
    def next(self):
        if not self._rest:
            raise StopIteration
        return Node(self._rest)


class Meta:
    def __init__(self, **fields):
        self.__dict__.update(fields)


@needs_gcc
def test_probe_draws_every_person_with_at_most_16_shapes_at_a_time(parser):
    from utils.pose.keypoints import skeleton

    found = detections([[10, 10, 60, 80], [60, 10, 120, 90]])
    found.det_pose[0, :2] += 5
    found.det_pose[0, :2].reshape(2, 17, 3)[..., 2] = 0.9
    kept, _ = attach(parser(found, NET, (720, 1200)), (720, 1200), NET)
    without = Meta(mask_params=Meta(size=0))  # a tracker's, while nvinfer skips frames
    frame = Meta(obj_meta_list=Node([*map(object_meta, kept), without]))
    empty = Meta(obj_meta_list=None)
    pyds, coco = Pyds(), skeleton(17)
    pose = {"limbs": coco.limbs, "limb_colors": [[0, 0, 1]] * 19, "point_colors": [[1, 0, 0]] * 17}
    probe().draw_batch(pyds, Meta(frame_meta_list=Node([frame, empty])), pose)
    assert {id(f) for f, _ in pyds.shown} == {id(frame)}
    counts = [(d.num_lines, d.num_circles) for _, d in pyds.shown]
    assert max(max(pair) for pair in counts) <= 16
    assert (sum(c[0] for c in counts), sum(c[1] for c in counts)) == (38, 34)
    line, circle = pyds.shown[0][1].line_params[0], pyds.shown[0][1].circle_params[0]
    assert isinstance(line.x1, int) and len(line.line_color.values) == 4
    wanted = np.rint(probe().keypoints(object_meta(kept[0]))[0, :2])
    assert [circle.xc, circle.yc] == wanted.tolist()


def test_probe_draws_no_unsure_and_no_outside_points():
    points = np.array([[5, 5, 0.9], [-3, 5, 0.9], [9, 9, 0.2]])
    pose = {"limbs": [[0, 1], [0, 2]], "limb_colors": [[0, 0, 1]] * 2}
    pose["point_colors"] = [[1, 0, 0]] * 3
    limbs, circles = probe().shapes(points, pose)
    assert limbs == [] and [c[0] for c in circles] == [[5, 5]]


def test_the_probe_needs_nothing_of_the_toolkit():
    text = (ROOT / "deploy" / "deepstream" / "pose_probe.py").read_text()
    assert "from utils" not in text and "import cv2" not in text
