"""Backup and restore of the chat, on its host."""
