"""Stand-in for TensorRT 8.6.1.6."""

from trt_fake import populate

populate(globals(), "8.6.1.6")
