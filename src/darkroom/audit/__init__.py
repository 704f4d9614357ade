"""Wrong labels, images that resemble nothing, unusable ones: found, shown and corrected. Open run.py first."""
