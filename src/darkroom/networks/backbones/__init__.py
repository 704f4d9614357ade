"""Pretrained networks: the table, their weights, the extractor and its features. Open table.py first."""
