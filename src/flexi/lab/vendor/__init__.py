"""Stub packages under the vendors' real names, and the repositories that serve them."""
