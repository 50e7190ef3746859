"""INT8: calibration images, ranges, Q/DQ pairs, fitting and distillation."""
