"""Darkroom: from labelled images to a promoted image classifier."""

__version__ = "0.1.0"
