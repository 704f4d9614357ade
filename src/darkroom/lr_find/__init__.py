"""The learning-rate range test of `darkroom lr-find`. Open suggestion.py first."""
