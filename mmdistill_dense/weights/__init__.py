"""Files of weights: finding, reading without running what is in them, loading strictly."""
