"""Accuracy, latency and the reports about them."""
