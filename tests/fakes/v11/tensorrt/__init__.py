"""Stand-in for TensorRT 11.4.1.2."""

from trt_fake import populate

populate(globals(), "11.4.1.2")
