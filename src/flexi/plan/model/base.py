"""The plan's part for every host: packages, apt sources, proxy, time."""

from __future__ import annotations

from flexi.catalog.frozen import Frozen as _Frozen


class ProxyPlan(_Frozen):
    """The site's HTTP proxy, and what is reached without it."""

    https: str | None
    http: str | None
    direct: tuple[str, ...]
    """Hosts, domains and networks: loopback, the site's hosts, its mirrors, and what the site file adds."""

    @property
    def apt(self) -> tuple[tuple[str, str], ...]:
        """Names and values of apt's settings (apt-transport-http(1)); of `direct` apt knows single hosts only."""
        hosts = [name for name in self.direct if not set("/:") & set(name)]
        found = [("Acquire::http::Proxy", self.http)] if self.http else []
        # Left out, apt would take http's for https as well.
        found.append(("Acquire::https::Proxy", self.https or "DIRECT"))
        found += [(f"Acquire::{scheme}::Proxy::{host}", "DIRECT") for scheme in ("http", "https") for host in hosts]
        return tuple(found)

    @property
    def environment(self) -> tuple[tuple[str, str], ...]:
        """For curl and apt; curl reads http_proxy in small letters only (curl(1))."""
        named = (("http_proxy", self.http), ("https_proxy", self.https), ("no_proxy", ",".join(self.direct)))
        return tuple((name, value) for name, value in named if value)


class AptSourcePlan(_Frozen):
    """An apt repository of the site, as a file of its own (deb822, `man sources.list`)."""

    file: str
    """Path of that file on the host."""
    uri: str
    suites: tuple[str, ...]
    components: tuple[str, ...]
    keyring: str
    """Path on the host of the key that the repository must be signed with."""
    key: str | None = None
    """The key's file on the admin's machine; None where the host has it or fetches it."""
    key_url: str | None = None
    key_fingerprint: str | None = None
    snapshot: bool = False
    """Of an earlier day: its index may have expired."""


class BasePlan(_Frozen):
    hostname: str
    hosts_entries: tuple[tuple[str, str], ...]
    """(address, name) of every host of the site, so that names work without DNS."""
    packages: tuple[str, ...]
    proxy: ProxyPlan | None = None
    ntp_servers: tuple[str, ...] = ()
    unattended_blacklist: tuple[str, ...] = ()
    """Regular expressions for `Unattended-Upgrade::Package-Blacklist` (matched at the start of the name)."""
    apt_sources: tuple[AptSourcePlan, ...] = ()
    apt_tools: tuple[str, ...] = ()
    """Packages that must be there before a repository's key can be fetched and looked at."""
    apt_sources_only: str | None = None
    """The directory whose apt sources are the only ones in use; None where the host's own are used too."""
    apt_files: tuple[str, ...] = ()
    """Every apt source that flexi writes on this host; what it wrote earlier and is not here goes."""
