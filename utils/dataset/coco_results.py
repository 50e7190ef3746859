"""Predictions as a COCO results file holds them, and pycocotools' figures of one.

rows = result_rows(poses)
json.dump(result_json(rows, image_id=139, category_ids=[1]), file)

Format: cocodataset.org/#format-results.
"""

from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Union

import numpy as np

from utils.dataset.coco import PX_DIGITS
from utils.pose.poses import Poses, join_poses, split_poses, xyxy_to_xywh

SCORE_DIGITS = 6  # decimals of a score


class Rows(NamedTuple):
    """Predictions of one image as a results file holds them: rounded, in float64.

    Figures are computed from these, so that whoever evaluates the file finds the same.
    """

    boxes: np.ndarray  # (n, 4) float64 x y width height px
    scores: np.ndarray  # (n,) float64, descending
    classes: np.ndarray  # (n,) int64
    keypoints: np.ndarray  # (n, K, 3) float64 x px, y px, confidence

    @property
    def count(self) -> int:  # type: ignore[override]  # of tuple
        """Number of predictions (`len()` of a NamedTuple would be its number of fields)."""
        return int(self.boxes.shape[0])


def result_rows(poses: Poses) -> Rows:
    """Poses -> Rows."""
    return result_rows_each([poses])[0]


def result_rows_each(found: Sequence[Poses]) -> List[Rows]:
    """Poses of each image -> Rows of each image; all are rounded at once."""
    if not found:
        return []
    everybody = join_poses(found)
    boxes = np.round(xyxy_to_xywh(everybody.boxes).astype(np.float64), PX_DIGITS)
    scores = np.round(everybody.scores.astype(np.float64), SCORE_DIGITS)
    keypoints = np.round(everybody.keypoints.astype(np.float64), PX_DIGITS)
    rounded = Poses(boxes, scores, everybody.classes, keypoints)
    return [Rows(*poses) for poses in split_poses(rounded, [poses.count for poses in found])]


def result_json(rows: Rows, image_id: int, category_ids: Sequence[int]) -> List[Dict[str, Any]]:
    """Rows of one image -> entries of a COCO results file, boxes and keypoints in one.

    The third value of a keypoint is its confidence.
    """
    return [
        {
            "image_id": image_id,
            "category_id": category_ids[cls],
            "bbox": box,
            "score": score,
            "keypoints": points,
        }
        for box, score, cls, points in zip(
            rows.boxes.tolist(),
            rows.scores.tolist(),
            rows.classes.tolist(),
            rows.keypoints.reshape(rows.count, 3 * rows.keypoints.shape[1]).tolist(),
        )
    ]


def coco_api_figures(  # noqa: PLR0917
    annotations: Union[str, Path, Dict[str, Any]],
    results: List[Dict[str, Any]],
    image_ids: Sequence[int],
    kind: str,
    sigmas: Sequence[float],
    category_ids: Optional[Sequence[int]] = None,
) -> Optional[List[float]]:
    """pycocotools' own figures: ten for kind `keypoints`, twelve for `bbox`.

    Args: annotations: a COCO JSON file or its content, see api_content. results: see result_json.
    category_ids: None: all categories. None if pycocotools is not installed.
    """
    import contextlib
    import io

    try:
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval
    except ImportError:
        return None
    with contextlib.redirect_stdout(io.StringIO()):  # it prints as it goes
        ground_truth = COCO() if isinstance(annotations, dict) else COCO(str(annotations))
        if isinstance(annotations, dict):
            ground_truth.dataset = annotations
            ground_truth.createIndex()
        if not results:  # loadRes fails on an empty list
            found = COCO()
            found.dataset = {**ground_truth.dataset, "annotations": []}
            found.createIndex()
        else:
            found = ground_truth.loadRes(results)
        evaluation = COCOeval(ground_truth, found, kind)
        evaluation.params.imgIds = sorted(image_ids)
        if category_ids is not None:
            evaluation.params.catIds = list(category_ids)
        evaluation.params.kpt_oks_sigmas = np.asarray(sigmas, np.float64)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return [float(v) for v in evaluation.stats]
