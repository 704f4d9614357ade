"""The files of code that travel inside a registered model."""

# Beside package.py. Each imports only those before it.
IMPORTED = ("machine.py", "plain_formats.py", "box_formats.py", "headers.py", "images.py", "scores.py", "items.py")
