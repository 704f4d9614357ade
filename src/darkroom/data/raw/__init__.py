"""Data as published (class folders, IDX, npz, CIFAR batches) as a stream of labelled images. Open layouts.py first."""
