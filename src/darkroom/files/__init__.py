"""Files on disk: written whole, checksummed, read out of archives. Open writing.py first."""
