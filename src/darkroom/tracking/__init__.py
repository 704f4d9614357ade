"""The MLflow store, its runs, and the provenance of a result. Open runs.py first."""
