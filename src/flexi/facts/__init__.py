"""pyinfra facts."""
