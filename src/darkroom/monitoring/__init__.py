"""The log of predictions, and drift against the training images. Open drift.py first."""
