"""Readers of class directories, IDX, npz and CIFAR batches that yield labelled images. Open layouts.py first."""
