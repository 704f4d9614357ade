"""The `darkroom` command: arguments in, tables or JSON out. Open main.py first."""
