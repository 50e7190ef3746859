"""Stand-in for TensorRT 10.7.0."""

from trt_fake import populate

populate(globals(), "10.7.0")
