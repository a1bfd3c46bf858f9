"""The gate in front of Open WebUI: sign-in, user agreement, limits."""
