"""Where things lie on the chat's host, for the role that writes them and for commands that use them."""

from __future__ import annotations

USER = "flexi-chat"
UNIT = "flexi-chat.service"
VENVS = "/opt/flexi/chat"
CURRENT = f"{VENVS}/current"
"""The venv in use; a link."""
PACKAGE = "/opt/flexi/flexi-chat.pyz"
"""The modules of `flexi_chat`."""
DATA = "/var/lib/flexi-chat"
SQLITE = f"{DATA}/webui.db"
"""Open WebUI's database where the site asks for no other (its env.py)."""
PLACE = "/var/lib/flexi/chat-database"
"""Where the chats are (flexi.local_files.chat_place): noted once the chat runs with it."""
SAVED = "/var/lib/flexi/chat-saved"
"""When a backup was last kept, Unix time."""
SETTINGS = "/etc/flexi/chat.env"
SECRETS = "/etc/flexi/chat-secrets.env"
"""Root's alone; systemd reads it for the unit."""
GIVEN = "/etc/flexi/chat-given.env"
"""Likewise, of secrets that others gave: of a directory, a provider, a database. There only where the site has some."""


PROOF = "/etc/flexi/chat-proof.env"
"""Likewise, what Apache in front of the chat shows it; there only where Apache says who comes."""
