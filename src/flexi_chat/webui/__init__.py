"""Open WebUI's own API, tables and files, as the other programs use them."""
