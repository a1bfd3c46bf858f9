"""Modules that several host programs use."""
