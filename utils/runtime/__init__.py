"""Running a model file on images, videos and streams."""
