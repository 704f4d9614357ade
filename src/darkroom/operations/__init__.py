"""Unattended operations: retraining and garbage collection. Open retrain.py first."""
