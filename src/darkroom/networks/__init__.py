"""Untrained networks by name, the trained one as an inference model, and both as files. Open build.py first."""
