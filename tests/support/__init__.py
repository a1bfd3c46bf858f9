"""Fakes and builders that several tests use."""
