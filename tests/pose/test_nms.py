import threading
import types
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import pose_row
from utils.errors import InputError
from utils.pose import greedy, nms
from utils.pose.detections import Detections
from utils.pose.poses import Poses

CASES = Path(__file__).parents[1] / "data" / "torchvision_nms.npz"


def random_case(seed):
    """Boxes (n, 4) xyxy, scores, IoU threshold; crowded, with copies, equal scores, empty boxes."""
    rng = np.random.default_rng(seed)
    n = int(rng.integers(0, 120))
    centers = rng.integers(0, 3 + seed % 5, (n, 2)) * 40 + rng.normal(0, 8, (n, 2))
    sizes = rng.uniform(0, 60, (n, 2))
    boxes = np.concatenate([centers - sizes / 2, centers + sizes / 2], 1).astype(np.float32)
    if n > 4:
        boxes[: n // 4] = boxes[n // 4 : n // 4 * 2]  # exact copies
        boxes[-1, 2:] = boxes[-1, :2]  # no area
    scores = rng.random(n).astype(np.float32)
    if seed % 3 == 0:
        scores = np.round(scores, 1)  # many equal scores
    return boxes, scores, float(rng.choice([0.0, 0.3, 0.45, 0.5, 0.6, 0.65, 0.9]))


def reference_nms(boxes, scores, classes, iou_thres):
    """Greedy NMS pair by pair, float32 as torchvision computes it."""
    f = np.float32
    order = sorted(range(len(boxes)), key=lambda i: -scores[i])
    area = [(b[2] - b[0]) * (b[3] - b[1]) for b in boxes]
    keep = []
    for i in order:
        for j in keep:
            if classes[i] != classes[j]:
                continue
            w = max(f(0), min(boxes[i][2], boxes[j][2]) - max(boxes[i][0], boxes[j][0]))
            h = max(f(0), min(boxes[i][3], boxes[j][3]) - max(boxes[i][1], boxes[j][1]))
            inter = w * h
            with np.errstate(invalid="ignore", divide="ignore"):
                if float(inter / (area[j] + area[i] - inter)) > iou_thres:
                    break
        else:
            keep.append(i)
    return keep


def poses_of(boxes, scores, classes):
    keypoints = np.repeat(np.arange(len(boxes), dtype=np.float32), 6).reshape(-1, 2, 3)
    return Poses(boxes, scores, np.asarray(classes, np.int64), keypoints)


def test_equals_pairwise_reference_on_random_cases():
    kept = 0
    for seed in range(300):
        boxes, scores, thres = random_case(seed)
        classes = np.random.default_rng(seed).integers(0, 1 + seed % 3, len(boxes))
        result = nms.suppress(poses_of(boxes, scores, classes), thres)
        expected = reference_nms(boxes, scores, classes, thres)
        assert result.keypoints[:, 0, 0].astype(int).tolist() == expected, seed
        np.testing.assert_array_equal(result.boxes, boxes[expected])
        kept += len(expected)
    assert kept > 3_000


def test_equals_torchvision_on_1000_random_cases():
    """Indices that torchvision.ops.nms kept, recorded once (see the file's `torchvision`)."""
    if not CASES.exists():
        pytest.skip("no recorded torchvision results")
    data = np.load(str(CASES))
    kept, ends = data["kept"], np.cumsum(data["counts"])
    assert len(ends) == 1000
    for seed, end in enumerate(ends):
        boxes, scores, thres = random_case(seed)
        expected = kept[end - data["counts"][seed] : end]
        result = nms.suppress(poses_of(boxes, scores, np.zeros(len(boxes))), thres)
        got = result.keypoints[:, 0, 0].astype(int)
        np.testing.assert_array_equal(got, expected, err_msg=str(seed))


def test_classes_do_not_suppress_each_other_unless_agnostic():
    boxes = np.array([[0, 0, 10, 10], [0, 0, 10, 10]], np.float32)
    poses = poses_of(boxes, np.array([0.5, 0.9], np.float32), [0, 1])
    assert nms.suppress(poses, 0.5).count == 2
    best = nms.suppress(poses, 0.5, agnostic=True)
    assert best.count == 1 and best.classes[0] == 1


def test_max_det_keeps_the_best():
    boxes = np.arange(40, dtype=np.float32).reshape(10, 4) * 100
    boxes[:, 2:] = boxes[:, :2] + 5
    scores = np.linspace(0.1, 1, 10).astype(np.float32)
    best = nms.suppress(poses_of(boxes, scores, np.zeros(10)), 0.5, max_det=3)
    np.testing.assert_array_equal(best.scores, scores[::-1][:3])


def test_max_det_0_keeps_nobody():
    rows = np.stack([pose_row(20 * i, 50, 10, 10, 0.9) for i in range(3)])
    assert nms.raw_to_poses(rows[None], 1, 0.25, iou_thres=0.45, max_det=0)[0].count == 0


def test_keypoints_stay_with_their_box():
    rows = np.stack([pose_row(20 + 8 * i, 30, 20, 40, 0.3 + 0.05 * i) for i in range(10)])
    (poses,) = nms.raw_to_poses(rows[None], 1, 0.25, iou_thres=0.3)
    assert 1 < poses.count < 10
    np.testing.assert_allclose(poses.keypoints[:, 0, 0], poses.boxes[:, 0], atol=1e-4)
    np.testing.assert_allclose(poses.keypoints[:, 16, 0], poses.boxes[:, 0] + 16, atol=1e-4)
    assert (np.diff(poses.scores) <= 0).all()


def test_score_is_objectness_times_class_and_strictly_above_the_threshold():
    row = pose_row(10, 10, 5, 5, 0.5, nc=3, cls=2)
    row[5:8] = [0.1, 0.2, 0.5]
    (poses,) = nms.raw_to_poses(row[None, None], 3, 0.2, iou_thres=0.5)
    assert poses.scores.tolist() == [0.25] and poses.classes.tolist() == [2]
    (poses,) = nms.raw_to_poses(row[None, None], 3, 0.25, iou_thres=0.5)
    assert poses.count == 0 and poses.keypoints.shape == (0, 17, 3)


@pytest.mark.parametrize("conf_thres", [0.3, 0.6, 0.7])
def test_scores_of_fp16_outputs_are_compared_in_float32(conf_thres):
    """The FP16 number next to each threshold is above it; as FP16 both would be equal."""
    near = np.float16(conf_thres)
    assert float(near) > conf_thres
    row = pose_row(50, 50, 20, 20)
    row[4:6] = near, 1
    raw = np.stack([row, row])[None].astype(np.float16)
    raw[0, 1, 0] += 40
    assert nms.raw_to_poses(raw, 1, conf_thres, iou_thres=0.45)[0].count == 2
    torch = pytest.importorskip("torch")
    tensor = torch.from_numpy(raw)
    assert nms.raw_to_poses(tensor, 1, conf_thres, iou_thres=0.45)[0].count == 2
    lined_up = nms._line_up(tensor, 1, conf_thres, classes=None)
    assert lined_up.counts == [2]


def test_class_filter():
    rows = np.stack([pose_row(10 + 100 * i, 10, 5, 5, nc=3, cls=i) for i in range(3)])
    (poses,) = nms.raw_to_poses(rows[None], 3, 0.2, iou_thres=0.5, classes=[2, 0])
    assert sorted(poses.classes.tolist()) == [0, 2]


@pytest.mark.parametrize("nkpt", [1, 5, 17])
def test_nobody(nkpt):
    raw = np.zeros((2, 0, 6 + 3 * nkpt), np.float32)
    for poses in nms.raw_to_poses(raw, 1, 0.25, iou_thres=0.45):
        assert poses.count == 0 and poses.keypoints.shape == (0, nkpt, 3)
        assert poses.boxes.shape == (0, 4) and poses.classes.dtype == np.int64


def test_torch_tensors_give_the_same():
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    raw = rng.random((2, 50, 57)).astype(np.float32) * np.float32(40)
    raw[..., 4:6] /= 40
    for a, b in zip(
        nms.raw_to_poses(raw, 1, 0.1, iou_thres=0.3),
        nms.raw_to_poses(torch.tensor(raw), 1, 0.1, iou_thres=0.3),
    ):
        for x, y in zip(a, b):
            np.testing.assert_array_equal(x, y)


def test_nan_rows_are_never_detections():
    overflow = pose_row(np.inf, 10, 5, 5)
    rows = np.stack([pose_row(10, 10, 5, 5), np.full(57, np.nan, np.float32), overflow])
    (poses,) = nms.raw_to_poses(rows[None], 1, 0.25, iou_thres=0.45)
    assert poses.count == 1


@pytest.mark.parametrize("column", [4, 5, 6])
def test_infinite_scores_are_never_detections(column):
    rows = np.stack([pose_row(10, 10, 5, 5, nc=2), pose_row(40, 10, 5, 5, nc=2)])
    rows[1, column] = np.inf
    torch = pytest.importorskip("torch")
    (poses,) = nms.raw_to_poses(rows[None], 2, 0.25, iou_thres=0.45)
    (on_gpu,) = nms._raw_to_poses_cuda(
        torch.from_numpy(rows[None]),
        2,
        0.25,
        iou_thres=0.45,
        agnostic=False,
        max_det=9,
        classes=None,
    )
    assert poses.count == on_gpu.count == 1


def test_what_nms_inside_says_must_be_finite():
    boxes, scores = np.zeros((1, 3, 4), np.float32), np.full((1, 3, 1), 0.9, np.float32)
    boxes[0, 1, 2], scores[0, 2] = np.nan, np.inf
    pose, index = np.zeros((1, 3, 51)), np.zeros((1, 3, 3), int)
    found = Detections(np.array([[3]]), index, boxes, pose, scores)
    assert nms.detections_to_poses(found)[0].count == 1


def test_class_of_equal_products_is_the_surest():
    """A tiny objectness makes the products of different probabilities equal."""
    torch = pytest.importorskip("torch")
    rows = pose_row(10, 10, 5, 5, 1e-44, nc=2)[None, None]
    rows[..., 5:7] = 0.95, 1.0
    limits = {"iou_thres": 0.45, "agnostic": False, "max_det": 9, "classes": None}
    (on_gpu,) = nms._raw_to_poses_cuda(torch.from_numpy(rows), 2, 1e-45, **limits)
    (poses,) = nms.raw_to_poses(rows, 2, 1e-45, **limits)
    assert poses.classes.tolist() == on_gpu.classes.tolist() == [1]


def test_nms_waits_for_the_stream_that_makes_the_raw_output(monkeypatch):
    """A conversion of the output may have been started there a moment ago."""
    torch = pytest.importorskip("torch")
    done, made = [], []

    class Stream:
        def __init__(self, device, priority):
            made.append(device)

        def wait_stream(self, other):
            done.append(other)

    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: "stream on %s" % device)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: done.append("entered"))
    monkeypatch.setattr(nms, "_local", threading.local())
    for device in ("cuda:0", "cuda:0", "cuda:1"):
        nms._urgent_stream(types.SimpleNamespace(is_cuda=True, device=device))
        assert done[-2:] == ["stream on " + device, "entered"]
    assert made == ["cuda:0", "cuda:1"]


def test_gpu_memory_that_does_not_suffice_is_an_input_error(monkeypatch):
    torch = pytest.importorskip("torch")

    class OnGpu(list):
        is_cuda = True

    def full(*args, **options):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(nms, "_raw_to_poses_cuda", full)
    with pytest.raises(InputError, match="`batch_size` 8: .* try 4"):
        nms.raw_to_poses(OnGpu(range(8)), 1, 0.25, iou_thres=0.45)


@pytest.mark.parametrize("agnostic", [False, True])
@pytest.mark.parametrize("nc, classes", [(1, None), (3, None), (3, [0, 2])])
def test_nms_on_the_gpu_gives_the_same(nc, classes, agnostic):
    """The path of CUDA tensors, run on the CPU."""
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(nc)
    raw = rng.random((3, 500, 5 + nc + 6)).astype(np.float32)
    raw[..., :4] *= (300, 300, 100, 100)
    raw[1, :, 4] = 0  # nobody on the second image
    raw[0, 5, 7 + nc] = np.inf
    limits = {"iou_thres": 0.45, "agnostic": agnostic, "max_det": 40, "classes": classes}
    found = nms._raw_to_poses_cuda(torch.from_numpy(raw), nc, 0.3, **limits)
    for ours, reference in zip(found, nms.raw_to_poses(raw, nc, 0.3, **limits)):
        for mine, field in zip(ours, reference):
            assert mine.dtype == field.dtype and np.array_equal(mine, field)
    raw[..., 4] = 0
    found = nms._raw_to_poses_cuda(torch.from_numpy(raw), nc, 0.3, **limits)
    assert [p.count for p in found] == [0, 0, 0] and found[0].keypoints.shape == (0, 2, 3)


@pytest.mark.parametrize("pairs", [1 << 25, 40_000, 500])
def test_nms_on_the_gpu_of_images_with_very_different_counts(monkeypatch, pairs):
    """Looked at together, in several parts, or on the host where one is too crowded."""
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(greedy, "MAX_PAIRS", pairs)
    monkeypatch.setattr(nms, "MAX_PAIRS", pairs)
    rng = np.random.default_rng(pairs)
    counts = [3, 0, 150, 20, 150, 1, 60, 22, 0, 90]
    raw = rng.random((len(counts), 200, 14)).astype(np.float32)
    raw[..., :4] *= (200, 200, 60, 60)
    for image, count in zip(raw, counts):
        image[:, 4] = 0
        image[rng.permutation(200)[:count], 4] = np.round(rng.uniform(0.5, 1, count), 1)
    raw[..., 5:8] = np.round(raw[..., 5:8], 1) / 2 + 0.5  # equal scores
    limits = {"iou_thres": 0.3, "agnostic": False, "max_det": 30, "classes": None}
    found = nms._raw_to_poses_cuda(torch.from_numpy(raw), 3, 0.2, **limits)
    expected = nms.raw_to_poses(raw, 3, 0.2, **limits)
    assert [p.count for p in expected][1] == 0 and max(p.count for p in expected) == 30
    for ours, reference in zip(found, expected):
        for mine, field in zip(ours, reference):
            assert mine.dtype == field.dtype and np.array_equal(mine, field)
