"""Height and width of an image file without decoding it: a few hundred bytes, not the pixels."""

from utils.errors import one_line
from utils.pose.letterbox import HW

_ORIENTATION = 0x0112  # EXIF tag; 5 to 8 lie on their side
_SIDEWAYS = (5, 6, 7, 8)
# Those with EXIF that OpenCV turns, and TIFF. MPO: what Pillow calls a JPEG of several pictures.
_FORMATS = ("JPEG", "MPO", "PNG", "WEBP")
_WIDTH, _HEIGHT = 256, 257  # TIFF tags


def read_image_hw(path: str) -> HW:
    """(height, width) px, upright, as sources.read_image would return it.

    Raises ValueError (reason only) for a file whose header is not an image's; OSError as open().
    """
    import warnings

    from PIL import Image, UnidentifiedImageError

    with open(path, "rb") as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns of huge pictures and odd EXIF
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
