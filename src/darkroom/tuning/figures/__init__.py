"""Charts of a search: its course, its parameters. Open course.py first."""
