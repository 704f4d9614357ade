"""Registered versions, their aliases and history, their lock, check and repair. Open aliases.py first."""
