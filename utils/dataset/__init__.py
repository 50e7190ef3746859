"""Files of a dataset <-> poses, labels and images."""
