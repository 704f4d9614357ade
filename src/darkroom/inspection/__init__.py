"""Inspection of a user's own images for `darkroom init`, before anything is prepared. Open findings.py first."""
