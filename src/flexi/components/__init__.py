"""Facts about each component in one place: paths, units, users."""
