"""Moodle's machine, which is none of the site's hosts: its AI provider, as the site file says."""

from pyinfra import host

from roles import moodle

moodle.install(host.data.flexi_moodle, bool(host.data.get("new_key")))
