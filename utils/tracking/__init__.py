"""Persons across the frames of a video: motion, association, IDs, smooth keypoints."""
