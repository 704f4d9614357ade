"""Charts of a search: its history and its parameters. Open course.py first."""
