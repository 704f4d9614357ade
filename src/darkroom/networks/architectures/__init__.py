"""One function per architecture, and the minimum image size of each. Open table.py first."""
