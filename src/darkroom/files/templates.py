"""Jinja templates of a package, for pages and model cards."""

import jinja2


def templates(package: str) -> jinja2.Environment:
    """Return the templates *.j2 of a package; those ending in .html.j2 escape inserted values, others do not."""
    return jinja2.Environment(
        loader=jinja2.PackageLoader(package, ""),
        autoescape=jinja2.select_autoescape(["html.j2"]),  # names of classes and files are untrusted
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
