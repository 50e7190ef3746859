"""IDF1, HOTA and ID switches by TrackEval, the library of the MOTChallenge."""

import contextlib
import io
from typing import Dict, List, Sequence

import numpy as np

from tests.tracking.crowd import Moment
from utils.tracking.similarity import pairwise_iou
from utils.tracking.tracker import Tracked


def spells(moments: Sequence[Moment]) -> List[np.ndarray]:
    """Identities; a person who left the image and comes back is another one."""
    last: Dict[int, int] = {}
    names: Dict[int, int] = {}
    given = 0
    found = []
    for t, moment in enumerate(moments):
        for person in moment.ids.tolist():
            if last.get(person) != t - 1:
                names[person], given = given, given + 1
            last[person] = t
        found.append(np.array([names[p] for p in moment.ids.tolist()], int))
    return found


def mot_figures(moments: Sequence[Moment], results: Sequence[Tracked]) -> Dict[str, float]:
    """Figures of a film: HOTA (mean over its thresholds), AssA, IDF1, MOTA and IDSW."""
    from trackeval.metrics import CLEAR, HOTA, Identity

    ground_truth, names = spells(moments), {}
    tracks = [
        np.array([names.setdefault(i, len(names)) for i in r.ids.tolist()], int) for r in results
    ]
    data = {
        "num_timesteps": len(moments),
        "gt_ids": ground_truth,
        "tracker_ids": tracks,
        "num_gt_ids": 1 + max(int(ids.max(initial=0)) for ids in ground_truth),
        "num_tracker_ids": len(names),
        "num_gt_dets": sum(map(len, ground_truth)),
        "num_tracker_dets": sum(map(len, tracks)),
        "similarity_scores": [
            pairwise_iou(m.boxes, r.poses.boxes.astype(float)) for m, r in zip(moments, results)
        ],
    }
    with contextlib.redirect_stdout(io.StringIO()):  # it prints its settings
        hota, idf, clear = (m.eval_sequence(data) for m in (HOTA(), Identity(), CLEAR()))
    return {
        "HOTA": float(hota["HOTA"].mean()),
        "AssA": float(hota["AssA"].mean()),
        "IDF1": float(idf["IDF1"]),
        "MOTA": float(clear["MOTA"]),
        "IDSW": int(clear["IDSW"]),
    }
