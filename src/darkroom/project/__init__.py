"""The checkout a program runs in: its root, params.yaml, locks, log lines and exit codes. Open params.py first."""
