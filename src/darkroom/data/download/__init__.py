"""The catalogue of datasets, and how each becomes data/raw. Open fetch.py first."""
