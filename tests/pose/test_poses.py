import numpy as np

from utils.pose.poses import cxcywh_to_xyxy, empty_poses, xyxy_to_cxcywh, xyxy_to_xywh


def test_box_formats_round_trip():
    boxes = np.random.default_rng(0).random((7, 4)) * 100
    np.testing.assert_allclose(xyxy_to_cxcywh(cxcywh_to_xyxy(boxes)), boxes)
    xyxy = np.array([[10.0, 20, 40, 80]])
    np.testing.assert_allclose(xyxy_to_xywh(xyxy), [[10, 20, 30, 60]])
    np.testing.assert_allclose(xyxy_to_cxcywh(xyxy), [[25, 50, 30, 60]])


def test_select_takes_all_fields_alike():
    poses = empty_poses(3)
    assert poses.count == 0 and poses.select([]).keypoints.shape == (0, 3, 3)
    assert poses.clip((10, 10)).boxes.shape == (0, 4)
