"""Training: data, augmentation, loss, loop and log."""
