"""From anybody's annotations to YOLO-pose labels and back."""
