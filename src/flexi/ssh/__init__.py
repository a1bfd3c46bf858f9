"""Commands and files over OpenSSH."""
