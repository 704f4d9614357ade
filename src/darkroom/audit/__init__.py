"""Find, show and correct wrong labels, outliers and unusable images. Open run.py first."""
