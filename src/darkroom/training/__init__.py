"""From params and data to a trained model: batches, optimizers, schedules, checkpoints. Open candidate.py first."""
