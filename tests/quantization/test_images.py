import cv2
import numpy as np
import pytest

from utils.errors import InputError
from utils.quantization.images import batches, choose_images, read_batch


@pytest.fixture
def folder(tmp_path):
    """12 images of many kinds in two folders; image i is grey 10 i."""
    suffixes = [".jpg", ".png", ".bmp", ".JPEG", ".webp", ".tif"]
    for i in range(12):
        part = tmp_path / "images" / ("a" if i % 2 else "b")
        part.mkdir(parents=True, exist_ok=True)
        image = np.full((20 + i, 40, 3), 10 * i, np.uint8)
        suffix = suffixes[i % 6]
        data = cv2.imencode(suffix.lower(), image)[1].tobytes()
        (part / ("%02d%s" % (i, suffix))).write_bytes(data)
    (tmp_path / "images" / "notes.txt").write_text("no image")
    return tmp_path / "images"


def test_choice_is_seeded_and_nested(folder):
    every = choose_images(str(folder), 12)
    assert len(set(every)) == 12 and every != sorted(every)
    assert choose_images(str(folder), 5) == every[:5]
    assert choose_images(str(folder), 12, seed=1) != every


def test_list_file(folder, tmp_path):
    names = choose_images(str(folder), 3)
    (tmp_path / "list.txt").write_text("\n".join(names))
    assert set(choose_images(str(tmp_path / "list.txt"), 3)) == set(names)


def test_too_few(folder, tmp_path):
    with pytest.raises(InputError, match="`calib_num` 13: only 12 images.*`calib_num` 12"):
        choose_images(str(folder), 13)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no images in it"):
        choose_images(str(tmp_path / "empty"), 1)
    with pytest.raises(InputError, match="expected a folder"):
        choose_images(str(tmp_path / "none"), 1)


@pytest.mark.parametrize("size", [1, 5, 12, 128])
def test_every_image_is_used_once(folder, size):
    paths = choose_images(str(folder), 12)
    found = list(batches(paths, (64, 64), size, title=None))
    assert [len(b) for b in found] == [size] * (12 // size) + ([12 % size] if 12 % size else [])
    grey = np.concatenate(found).mean((1, 2, 3)) * 255
    np.testing.assert_allclose(sorted(grey), np.arange(12) * 10, atol=2)


def test_last_batch_is_filled_where_it_must_be_full(folder):
    paths = choose_images(str(folder), 12)
    found = list(batches(paths, (64, 64), 8, fixed=True, title=None))
    assert [len(b) for b in found] == [8, 8]
    np.testing.assert_array_equal(found[1][4:], found[0][:4])


def test_same_preprocessing_as_detect(tmp_path):
    from tests.conftest import make_pose_onnx, pose_row
    from utils.runtime.load import load_backend
    from utils.runtime.predictor import Predictor

    image = np.random.default_rng(0).integers(0, 255, (48, 100, 3), np.uint8)
    path = tmp_path / "x.png"
    path.write_bytes(cv2.imencode(".png", image)[1].tobytes())
    onnx = make_pose_onnx(tmp_path / "x.onnx", pose_row(1, 1, 1, 1)[None], (64, 128))
    view = Predictor(load_backend(str(onnx), "cpu")).preprocess([image])[0]
    np.testing.assert_array_equal(read_batch([str(path)], (64, 128), letterboxed=True), view.batch)


def test_plain_resize_fills_height_and_width(tmp_path):
    """(height, width): the left half of the image is dark, the right half bright."""
    image = np.zeros((30, 90, 3), np.uint8)
    image[:, 45:] = (255, 0, 0)  # blue
    path = tmp_path / "x.png"
    path.write_bytes(cv2.imencode(".png", image)[1].tobytes())
    batch = read_batch([str(path)], (64, 128))
    assert batch.shape == (1, 3, 64, 128) and batch.dtype == np.float32
    assert batch[0, :, :, :60].max() == 0 and batch[0, 2, :, 68:].min() == 1
    assert batch[0, :2].max() == 0  # RGB


def test_broken_image_is_named(tmp_path):
    (tmp_path / "x.jpg").write_bytes(b"no image")
    with pytest.raises(InputError, match="`calib_path`: .*x.jpg"):
        list(batches([str(tmp_path / "x.jpg")], (64, 64), 1, title=None))
