"""The place in the evaluation's page where promote inserts the decision."""

MARKER = "<!-- decision -->"


def with_decision(page: str, section: str) -> str:
    """Return the page with a section of HTML in place of the marker."""
    return page.replace(MARKER, section, 1)
