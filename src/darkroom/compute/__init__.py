"""One function over many items, or long-lived workers, on this machine or on Ray. Open stream.py first."""
