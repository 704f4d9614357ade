"""Metrics from probabilities and labels, with numpy and SciPy only. Open classification.py first."""
