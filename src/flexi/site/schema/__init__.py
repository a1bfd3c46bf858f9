"""Keys, types and defaults of a site file."""
