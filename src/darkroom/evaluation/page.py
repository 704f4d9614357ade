"""Where the page of an evaluation has room for what is decided about its winner."""

MARKER = "<!-- decision -->"


def with_decision(page: str, section: str) -> str:
    """Return the page with a section of HTML in the place of the marker."""
    return page.replace(MARKER, section, 1)
