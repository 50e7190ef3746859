"""The only import of tensorrt, and the memory its engines run in."""
