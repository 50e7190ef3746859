"""Where boxes will be: a Kalman filter of constant velocity for every track at once."""

import numpy as np

from utils.pose.poses import cxcywh_to_xyxy, xyxy_to_cxcywh

# Standard deviations as parts of the height of the box, so that near and far persons are alike
MEASURED = 1 / 20  # of a detection
MOVED = 1 / 20  # of the position, added each frame
ACCELERATED = 1 / 160  # of the velocity, added each frame
FIRST_SPEED = 1 / 16  # of the unknown velocity of a new track


class BoxMotion:
    """Centre and size of n boxes with their velocities, pixels and pixels a frame.

    The four coordinates of a box are filtered independently, so that the covariance of each is a
    2 x 2 matrix in closed form (Kalman 1960; as SORT and DeepSORT, arXiv 1602.00763 and
    1703.07402, use it with full matrices).

    Attributes, all (n, 4) float64: `position` cx cy w h, `velocity`, `variance` of the position,
    `covariance` of both, `velocity_variance`.
    """

    def __init__(self) -> None:
        none = np.zeros((0, 4))
        self.position, self.velocity = none, none
        self.variance, self.covariance, self.velocity_variance = none, none, none

    @property
    def boxes(self) -> np.ndarray:
        """(n, 4) float64 xyxy px."""
        return cxcywh_to_xyxy(self.position)

    def add(self, boxes: np.ndarray) -> None:
        """Append boxes, (m, 4) xyxy px, at rest."""
        position = xyxy_to_cxcywh(boxes.astype(np.float64))
        height = position[:, 3:] * np.ones(4)
        for name, rows in (
            ("position", position),
            ("velocity", np.zeros_like(position)),
            ("variance", (2 * MEASURED * height) ** 2),
            ("covariance", np.zeros_like(position)),
            ("velocity_variance", (FIRST_SPEED * height) ** 2),
        ):
            setattr(self, name, np.concatenate([getattr(self, name), rows]))

    def select(self, index: np.ndarray) -> None:
        """Keep the boxes at `index`, a mask or integers."""
        self.position, self.velocity = self.position[index], self.velocity[index]
        self.variance, self.covariance = self.variance[index], self.covariance[index]
        self.velocity_variance = self.velocity_variance[index]

    def predict(self, lost: np.ndarray) -> None:
        """Move one frame on.

        Args: lost: (n,) bool, not found in the last frame; the size of these stays as it is,
            because the box of a person who disappears behind something shrinks.
        """
        self.velocity[lost, 2:] = 0
        height = self.position[:, 3:]
        self.position = self.position + self.velocity
        self.position[:, 2:] = np.maximum(self.position[:, 2:], 1)
        self.variance = self.variance + 2 * self.covariance + self.velocity_variance
        self.variance += (MOVED * height) ** 2
        self.covariance = self.covariance + self.velocity_variance
        self.velocity_variance = self.velocity_variance + (ACCELERATED * height) ** 2

    def correct(self, index: np.ndarray, boxes: np.ndarray) -> None:
        """Take detections, (m, 4) xyxy px, as the boxes at `index` of this frame."""
        surprise = xyxy_to_cxcywh(boxes.astype(np.float64)) - self.position[index]
        variance, covariance = self.variance[index], self.covariance[index]
        noise = (MEASURED * self.position[index, 3:]) ** 2
        gain, speed_gain = variance / (variance + noise), covariance / (variance + noise)
        self.position[index] += gain * surprise
        self.velocity[index] += speed_gain * surprise
        self.variance[index] = (1 - gain) * variance
        self.covariance[index] = (1 - gain) * covariance
        self.velocity_variance[index] -= speed_gain * covariance
