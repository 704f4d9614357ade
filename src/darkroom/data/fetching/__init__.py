"""One file from a URL, npm, PyPI or the mirror, checked by its sha256. Open packages.py first."""
