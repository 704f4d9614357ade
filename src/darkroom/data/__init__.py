"""Data from its source to the arrays that training reads, in the order download, preparation, augmentation."""
