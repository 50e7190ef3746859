import pytest

from escalator.tally import Tally
from utils.dataset.labelme import NO_KEYPOINT
from utils.errors import InputError


def test_one_is_singular_and_the_path_stays(capsys):
    tally = Tally()
    tally.add(1, {"boxes made of the keypoints": 1, "persons without a labelled keypoint": 2})
    tally.finish("label files in data/images/files")
    assert capsys.readouterr().out.splitlines() == [
        "1 label file in data/images/files: 1 person, 0 images without persons",
        "  1 box made of the keypoints",
        "  2 persons without a labelled keypoint",
    ]


@pytest.mark.parametrize(
    "images, converted",
    [(0, "no image was converted"), (1, "1 image was converted"), (2, "2 images were converted")],
)
def test_the_error_says_how_many_were_converted(capsys, images, converted):
    tally = Tally()
    for _ in range(images):
        tally.add(1, {})
    tally.faults = ["a.json: not JSON"]
    with pytest.raises(InputError) as fault:
        tally.finish("label files in labels")
    assert str(fault.value).endswith("could not be converted (see above); " + converted)
    assert "failed: a.json: not JSON" in capsys.readouterr().err


def test_points_of_no_keypoint_are_one_line_a_name(capsys):
    tally = Tally()
    tally.add(1, {})
    places = ["a.json, shape 1", "a.json, shape 9", "b.json, shape 1"]
    tally.faults = ["%s: point tpi%s" % (place, NO_KEYPOINT) for place in places]
    tally.faults.insert(1, "c.json: broken")
    with pytest.raises(InputError, match="^1 file or person and 3 points could not be converted"):
        tally.finish("label files in x")
    points, other = capsys.readouterr().err.splitlines()
    assert "point tpi is not among the keypoints: 3 points left out, first in a.json, s" in points
    assert other == "failed: c.json: broken"
