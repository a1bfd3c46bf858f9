"""Accounts of the chat, and who accepted its agreement: asked of the chat's host over SSH."""
