"""`darkroom batch`: any number of images to one parquet file. Open run.py first."""
