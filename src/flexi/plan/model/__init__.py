"""The plan's classes: plain frozen data."""
