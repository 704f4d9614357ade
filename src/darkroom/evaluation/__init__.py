"""Scores, predictions, plots and the report of the stage evaluate. Open candidates.py first."""
