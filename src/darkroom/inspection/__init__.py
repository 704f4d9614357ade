"""What `darkroom init` finds out about a user's own images before anything is prepared. Open findings.py first."""
