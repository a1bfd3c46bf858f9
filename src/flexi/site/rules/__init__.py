"""Rules that the schema cannot express: keys of a site file that do not go together."""
