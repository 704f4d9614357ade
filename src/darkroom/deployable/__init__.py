"""The classifier that travels with a registered version: package.py and mlflow_model.py import nothing of darkroom.

Open package.py first.
"""
