"""What the stage evaluate writes: scores, predictions, plots and the report. Open candidates.py first."""
