"""Record what torchvision.ops.nms keeps of the random cases of tests/pose/test_nms.py.

    python tests/data/record_torchvision_nms.py        # writes tests/data/torchvision_nms.npz

Run once on a machine where torchvision works; the tests compare with the file.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np
import torch
import torchvision

from tests.pose.test_nms import CASES, random_case


def main() -> None:
    kept, counts = [], []
    for seed in range(1000):
        boxes, scores, thres = random_case(seed)
        index = torchvision.ops.nms(torch.from_numpy(boxes), torch.from_numpy(scores), thres)
        kept.append(index.numpy().astype(np.int16))
        counts.append(len(index))
    np.savez_compressed(
        str(CASES),
        kept=np.concatenate(kept),
        counts=np.array(counts, np.int16),
        torchvision=np.array(torchvision.__version__),
    )


if __name__ == "__main__":
    main()
