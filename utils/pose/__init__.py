"""Poses of one image: the types, keypoints, letterbox, NMS, drawing."""
