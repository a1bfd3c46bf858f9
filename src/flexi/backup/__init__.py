"""`flexi backup` and `flexi restore`: what people wrote in the chat, encrypted, and back again."""
