"""`flexi test`."""
