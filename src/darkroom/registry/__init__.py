"""Registered versions, their aliases and history, the lock, check and repair. Open aliases.py first."""
