"""Types of arrays that lie on the host or on a GPU, for annotations: torch may be missing.

if TYPE_CHECKING:
    from utils.arrays import Array
"""

from typing import TYPE_CHECKING, Union

if TYPE_CHECKING:
    import numpy as np
    import torch

    Array = Union[np.ndarray, torch.Tensor]
