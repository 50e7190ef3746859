"""Image files: their pixels, and their size without decoding them."""

import cv2
import numpy as np

from utils.dataset.png import is_png, plain_png
from utils.errors import one_line
from utils.pose.letterbox import HW
from utils.reading import check_image_file

IMAGE_SUFFIXES = ".bmp .dib .jpeg .jpg .jpe .jp2 .png .webp .pbm .pgm .ppm .tif .tiff".split()
_ORIENTATION = 0x0112  # EXIF tag; 5 to 8 lie on their side
_SIDEWAYS = (5, 6, 7, 8)
# Those with EXIF that OpenCV turns, and TIFF. MPO: what Pillow calls a JPEG of several images.
_FORMATS = ("JPEG", "MPO", "PNG", "WEBP")
_WIDTH, _HEIGHT = 256, 257  # TIFF tags
_JPEG_START, _JPEG_SCAN, _JPEG_END = b"\xff\xd8\xff", b"\xff\xda", b"\xff\xd9"
_TOO_EARLY = "a JPEG that ends too early: copy it again"
_FILLED = 16  # zeros at the end that no trailer of a camera has


def read_image(path: str) -> np.ndarray:
    """Read an image file as (H, W, 3) uint8 BGR, upright (EXIF orientation applied).

    Grey and palette images become three channels, 16 bits become 8, alpha is dropped. Any
    file name the system can open works, also non-ASCII ones on every platform.

    Raises ValueError (reason only, no path) for what OpenCV cannot decode; OSError as open().
    """
    return decode_image(path, cv2.IMREAD_COLOR)


def decode_image(path: str, flag: int) -> np.ndarray:
    """read_image with another of OpenCV's IMREAD flags."""
    return _decode(_read_bytes(path), flag)


def _read_bytes(path: str) -> np.ndarray:
    check_image_file(path)
    data = np.fromfile(path, np.uint8)  # OpenCV's own file names know no Chinese on Windows
    if not data.size:
        raise ValueError("empty file")
    return data


def _decode(data: np.ndarray, flag: int) -> np.ndarray:
    if is_png(data):
        data = plain_png(data)
    try:
        image = cv2.imdecode(data, flag)
    except cv2.error as e:  # for instance more pixels than OpenCV allows
        raise ValueError(" ".join(str(e).split())) from e
    if image is None:
        raise ValueError(_undecodable(data))
    return image


def _undecodable(data: np.ndarray) -> str:
    """Why OpenCV may have refused these bytes."""
    return _TOO_EARLY if _ends_in_scan(data) else "not an image OpenCV can decode"


def _ends_in_scan(data: np.ndarray) -> bool:
    """Whether no end follows the pixels of a JPEG; pixels contain no markers."""
    file = data.tobytes()
    return file.startswith(_JPEG_START) and file.rfind(_JPEG_END) <= file.rfind(_JPEG_SCAN)


def check_decodable(path: str) -> None:
    """Raise what read_image raises of a file, at two thirds of its cost for a JPEG.

    OpenCV then reads the whole file, too, but computes an eighth of the sides of the image. A JPEG
    whose end a broken copy filled with zeros, which OpenCV may take, is refused as well.
    """
    data = _read_bytes(path)
    _decode(data, cv2.IMREAD_REDUCED_GRAYSCALE_8)
    if not data[-_FILLED:].any() and _ends_in_scan(data):
        raise ValueError(_TOO_EARLY)


def read_image_hw(path: str) -> HW:
    """(height, width) px without decoding the pixels, upright, as read_image would return it.

    Raises ValueError (reason only) for a file whose header is not an image's; OSError as open().
    """
    import warnings

    from PIL import Image, UnidentifiedImageError

    check_image_file(path)
    with open(path, "rb") as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns of huge images and odd EXIF
        try:
            with Image.open(file) as image:
                width, height = image.size
                orientation = None
                if image.format == "TIFF":  # newer Pillows turn .size, older do not
                    tags = image.tag_v2  # type: ignore  # TIFF only
                    width, height, orientation = map(tags.get, (_WIDTH, _HEIGHT, _ORIENTATION))
                elif image.format in _FORMATS and "exif" in image.info:  # else a PNG is read whole
                    orientation = image.getexif().get(_ORIENTATION)
        except UnidentifiedImageError as e:
            raise ValueError("not an image") from e
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as e:
            raise ValueError("not an image (%s)" % one_line(e, 80)) from e
    return (width, height) if orientation in _SIDEWAYS else (height, width)
