"""FixedNms of each setting a backend is asked for, given up where it does not suffice."""

import threading
from typing import TYPE_CHECKING, Dict, List, Optional

import numpy as np

from utils.pose import fixed_nms
from utils.pose.fixed_nms import FixedNms, NmsSettings
from utils.pose.poses import Poses

if TYPE_CHECKING:
    import torch

MISSES = 5  # calls in a row that the fixed sizes did not serve: the images are too crowded


class FixedSuppression:
    """Args: nc, device: see FixedNms. single: a caller can serve single images in another way."""

    def __init__(self, nc: int, device: "torch.device", *, single: bool = False):
        self._nc, self._device, self._single = nc, device, single
        self._made: Dict[NmsSettings, FixedNms] = {}
        self._misses: Dict[NmsSettings, int] = {}  # in a row
        self._lock = threading.Lock()

    def serves(self, settings: NmsSettings, batch: int) -> bool:
        """Whether it is worth a try for a batch of so many images."""
        return fixed_nms.fits(settings, batch) and self._misses.get(settings, 0) < MISSES

    def of(self, settings: NmsSettings) -> FixedNms:
        with self._lock:
            if settings not in self._made:
                self._made[settings] = FixedNms(settings, self._nc, self._device)
            return self._made[settings]

    def start_over(self, settings: NmsSettings) -> None:
        """Forget the calls that were not served."""
        self._misses.pop(settings, None)

    def poses(self, settings: NmsSettings, packed: np.ndarray) -> List[Optional[Poses]]:
        """See FixedNms.poses."""
        found = self.of(settings).poses(packed)
        missing = sum(poses is None for poses in found)
        missed = 2 * missing > len(found) if self._single else missing
        self._misses[settings] = self._misses.get(settings, 0) + 1 if missed else 0
        return found
