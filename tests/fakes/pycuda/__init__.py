"""Stand-in for pycuda: device memory is host memory, see driver.py."""
