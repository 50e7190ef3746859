import pytest

from utils.words import counted


@pytest.mark.parametrize(
    "number, noun, text",
    [(0, "image", "0 images"), (1, "image", "1 image"), (2, "person", "2 persons"),
     (3, "box", "3 boxes"), (2, "bus", "2 buses"), (2, "puppy", "2 puppies"), (2, "boy", "2 boys"),
     (2, "label file", "2 label files"), (2, "人", "2 人"), (2, "class 7", "2 class 7")],
)  # fmt: skip
def test_counted(number, noun, text):
    assert counted(number, noun) == text
