"""Files of the admin's machine that a deploy needs, checked before a host is touched."""
