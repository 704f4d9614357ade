"""The look of every chart, and the grid of images. Open style.py first."""
