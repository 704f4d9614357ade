"""One function per architecture, and the smallest image that each can take. Open table.py first."""
