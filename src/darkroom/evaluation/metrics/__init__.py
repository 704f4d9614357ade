"""Probabilities and labels to numbers, with numpy and SciPy alone. Open classification.py first."""
