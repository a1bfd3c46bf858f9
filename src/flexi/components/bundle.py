"""The bundle on a host: names of files on their way."""

from __future__ import annotations

INCOMING = ".incoming"
"""In a directory that files are pushed to: what has arrived of a file so far, by its digest."""
ARRIVED = ".arrived"
"""In a directory that files were pushed to: digest, size, inode and path of each as it arrived."""
