"""What runs unattended: retraining and the removal of what is no longer needed. Open retrain.py first."""
