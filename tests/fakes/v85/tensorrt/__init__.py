"""Stand-in for TensorRT 8.5.2.2."""

from trt_fake import populate

populate(globals(), "8.5.2.2")
