"""Course bots on the chat's host."""
