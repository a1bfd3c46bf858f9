"""Decisions of HAProxy's configuration, so that its template holds none."""

from __future__ import annotations

from flexi.catalog.frozen import Frozen


class RateWindow(Frozen):
    """A span of the clock (UTC) in which the requests of a consumer are counted."""

    name: str
    """As in `per_minute`, and in the names of response headers."""
    seconds: int
    label: str
    """In a sentence: so many requests `a minute`."""
    counter: int
    """Number of HAProxy's sticky counter that tracks it; 2.4 has three (MAX_SESS_STKCTR)."""
    expire: str
    """Time after which an unused entry of its table is dropped, in HAProxy's notation: longer than the window."""
    stores: tuple[str, ...]
    """Data types of its stick table."""
    shared: bool
    """Whether the gateways tell each other of it."""


class OwnError(Frozen):
    """An error that HAProxy answers by itself once it has read a request's head."""

    status: int
    code: str
    """For programs; in the API format of the path."""
    message: str
    retry_after_s: int | None = None


class HaproxyPlan(Frozen):
    rate_windows: tuple[RateWindow, ...]
    fairness_shares: tuple[int, ...]
    """Steps of the queue's order: a consumer's requests under way are rounded down to one of these, since counted one
    by one a request would wait as long as the same consumer sends others that meet one fewer."""
    own_errors: tuple[OwnError, ...]
    inner_error_statuses: tuple[int, ...]
    """Statuses of HAProxy's own that the guard is told the cause of."""
    chat_error_statuses: tuple[int, ...]
    """Statuses for which a browser gets the page that says that the chat is away."""
