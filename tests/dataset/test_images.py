import cv2
import numpy as np
import pytest

from utils.dataset.images import check_decodable, read_image, read_image_hw

PIL = pytest.importorskip("PIL.Image")


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp", "bmp"])
@pytest.mark.parametrize("orientation", range(9))
def test_same_size_as_the_decoded_image(tmp_path, suffix, orientation):
    path = str(tmp_path / ("图片.%s" % suffix))
    exif = PIL.Exif()
    if orientation:
        exif[0x112] = orientation
    PIL.fromarray(np.zeros((30, 50, 3), np.uint8)).save(path, exif=exif)
    assert read_image_hw(path) == read_image(path).shape[:2]


@pytest.mark.parametrize("orientation", [1, 6])
def test_jpeg_of_several_images(tmp_path, orientation):
    """As phones and cameras write them, with a preview or a depth map behind the first image."""
    exif = PIL.Exif()
    exif[0x112] = orientation
    path = str(tmp_path / "a.jpg")
    image = PIL.fromarray(np.zeros((30, 50, 3), np.uint8))
    image.save(path, format="MPO", save_all=True, append_images=[image], exif=exif)
    assert read_image_hw(path) == read_image(path).shape[:2]


@pytest.mark.parametrize("content", [b"", b"no image", b"\xff\xd8\xff\xe0", b"\x89PNG\r\n\x1a\n"])
def test_not_an_image(tmp_path, content):
    path = tmp_path / "a.jpg"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="not an image"):
        read_image_hw(str(path))


def test_reads_the_header_only(tmp_path):
    data = cv2.imencode(".jpg", np.zeros((700, 900, 3), np.uint8))[1].tobytes()
    path = tmp_path / "cut.jpg"
    path.write_bytes(data[: len(data) // 2])
    assert read_image_hw(str(path)) == (700, 900)


@pytest.mark.parametrize("suffix", ["jpg", "png"])
@pytest.mark.parametrize("filled", [False, True])
def test_a_truncated_image_is_called_so(tmp_path, suffix, filled):
    """Also one that a broken copy left at its full length."""
    pixels = np.random.default_rng(0).integers(0, 255, (70, 90, 3), np.uint8)
    data = cv2.imencode("." + suffix, pixels)[1].tobytes()
    path = tmp_path / ("a." + suffix)
    path.write_bytes(data + b"a tail")
    check_decodable(str(path))
    half = len(data) // 2
    path.write_bytes(data[:half] + bytes(half) * filled)
    assert read_image_hw(str(path)) == (70, 90)
    words = "damaged PNG" if filled and suffix == "png" else "ends too early: copy it again"
    with pytest.raises(ValueError, match=words):
        check_decodable(str(path))
    if not filled:
        with pytest.raises(ValueError, match=words):
            read_image(str(path))
