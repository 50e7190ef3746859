"""Draw the tiny dataset tests/data/people: stick people on plain ground, with their annotations.

    python tests/data/make_people.py

Twelve JPEGs and a JSON each, in the format of the README; drawn by us, free to use and share.
Running it again gives the same annotations, and the same images up to the JPEG encoder.
"""

import json
import random
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import cv2
import numpy as np

from utils.pose.keypoints import LIMBS

FOLDER = Path(__file__).resolve().parent / "people"
# x, y of a person who faces the camera, arms a little out; in heads of an 8-head figure, the nose
# at 0, 0; left and right are the person's own, so the left side is to the right of the image
FIGURE = np.array(
    [(0, 0), (0.2, -0.2), (-0.2, -0.2), (0.45, -0.1), (-0.45, -0.1)]  # nose, eyes, ears
    + [(1, 1.1), (-1, 1.1), (1.5, 2.4), (-1.5, 2.4), (1.7, 3.6), (-1.7, 3.6)]  # arms
    + [(0.6, 3.7), (-0.6, 3.7), (0.7, 5.4), (-0.7, 5.4), (0.75, 7.0), (-0.75, 7.0)],  # legs
    np.float64,
)  # fmt: skip


def person(rng: random.Random, width: int, height: int):
    """(17, 2) px of one person, whole inside the image."""
    scale = rng.uniform(0.5, 0.8) * height / 8
    jitter = np.array([[rng.uniform(-0.12, 0.12) for _ in range(2)] for _ in FIGURE])
    x = rng.uniform(2.2 * scale, width - 2.2 * scale)
    y = rng.uniform(0.9 * scale, height - 7.4 * scale)
    return np.round((FIGURE + jitter) * scale + [x, y], 1), scale


def draw(image: np.ndarray, points: np.ndarray, scale: float, color) -> None:
    thickness = max(int(scale * 0.5), 2)
    to_int = np.rint(points).astype(int)
    for a, b in LIMBS:
        cv2.line(image, tuple(to_int[a].tolist()), tuple(to_int[b].tolist()), color, thickness,
                 cv2.LINE_AA)  # fmt: skip
    center = tuple(to_int[0].tolist())
    cv2.circle(image, center, int(scale * 0.55), color, -1, cv2.LINE_AA)


def main() -> None:
    rng = random.Random(17)
    for name in ("images", "annotations"):
        (FOLDER / name).mkdir(parents=True, exist_ok=True)
    for number in range(12):
        width, height = rng.choice([(192, 144), (144, 192), (160, 160)])
        shade = [rng.randint(150, 230) for _ in range(3)]
        image = np.full((height, width, 3), shade, np.uint8)
        people = []
        for _ in range(number % 4):  # also images without persons
            points, scale = person(rng, width, height)
            draw(image, points, scale, [rng.randint(0, 120) for _ in range(3)])
            low, high = points.min(0) - 0.6 * scale, points.max(0) + 0.4 * scale
            low, high = low.clip(0), np.minimum(high, [width, height])
            box = [round(float(v), 1) for v in (*low, *(high - low))]
            values = points.copy()
            if rng.random() < 0.3:
                values[rng.randrange(17)] = 0  # not labelled
            entry = {"keypoints": values.ravel().tolist(), "bbox": box}
            if rng.random() < 0.3:
                entry["bbox"] = []
            if rng.random() < 0.3:  # 51 numbers, one hidden
                v = np.where(values.any(1), 2, 0)
                v[15] = min(v[15], 1)
                entry["keypoints"] = [n for (a, b), s in zip(values.tolist(), v.tolist())
                                      for n in (a, b, s)]  # fmt: skip
            people.append(entry)
        stem = "people%02d" % number
        jpeg = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 85])[1]
        (FOLDER / "images" / (stem + ".jpg")).write_bytes(jpeg.tobytes())
        (FOLDER / "annotations" / (stem + ".json")).write_text(json.dumps(people) + "\n")


if __name__ == "__main__":
    main()
