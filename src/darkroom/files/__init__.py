"""Files on disk: atomic writes, checksums, archives. Open writing.py first."""
