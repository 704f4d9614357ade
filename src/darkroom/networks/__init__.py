"""Build networks by name, turn trained ones into inference models, and export them. Open build.py first."""
