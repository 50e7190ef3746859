"""Networks, checkpoints and export scripts."""
