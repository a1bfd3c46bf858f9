"""`flexi verify`: the health checks."""
