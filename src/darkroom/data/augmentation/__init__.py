"""Augmented copies of the training images. Open copies.py first."""
