"""The array formats that stages hand each other: the dataset and its features. Open dataset.py first."""
