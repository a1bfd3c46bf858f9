"""HAProxy's configuration in the plan: rate windows, the queue's steps, and its own errors."""

from __future__ import annotations

from flexi.plan.model.haproxy import HaproxyPlan, OwnError, RateWindow

# Requests at once (conn_cur) are counted in the first table. It is not shared: HAProxy 2.4 would tell of conn_cur too
# (src/stick_table.c, v2.4.0), and no other process ever counts it down. A minute is soon over.
RATE_WINDOWS = (
    RateWindow(
        name="minute",
        seconds=60,
        label="a minute",
        counter=0,
        expire="2m",
        stores=("conn_cur", "gpc0", "gpt0"),
        shared=False,
    ),
    RateWindow(
        name="hour", seconds=3600, label="an hour", counter=1, expire="2h", stores=("gpc0", "gpt0"), shared=True
    ),
    RateWindow(
        name="day", seconds=86400, label="a day (UTC)", counter=2, expire="25h", stores=("gpc0", "gpt0"), shared=True
    ),
)
FAIRNESS_SHARES = tuple(2**step for step in range(1, 11))
"""Requests under way that share a place in the queue's order: second alone, then third and fourth, fifth to eighth …"""
RETRY_AFTER_S = 10


def haproxy_plan(gateway_name: str) -> HaproxyPlan:
    """Build HAProxy's part of the plan; `gateway_name` is whom a client is told to ask."""
    return HaproxyPlan(
        rate_windows=RATE_WINDOWS,
        fairness_shares=FAIRNESS_SHARES,
        own_errors=_own_errors(gateway_name),
        inner_error_statuses=(400, 408, 500, 502, 503, 504),
        chat_error_statuses=(502, 503, 504),
    )


def _own_errors(gateway_name: str) -> tuple[OwnError, ...]:
    return (
        OwnError(
            status=400,
            code="bad_request",
            message="this request is not understood: its HTTP is not right, its body not framed as its headers say, or "
            "its connection half closed before the answer; send it with another client",
        ),
        OwnError(status=408, code="body_timeout", message="the request did not come in time; send it again"),
        OwnError(
            status=500,
            code="gateway_error",
            message="the gateway cannot handle this request; send it with fewer or smaller headers, or ask "
            + gateway_name,
        ),
        OwnError(status=502, code="gateway_error", message="the gateway broke off; try again"),
        OwnError(
            status=503,
            code="gateway_down",
            message=f"the gateway is out of order or overloaded; try again in {RETRY_AFTER_S} s",
            retry_after_s=RETRY_AFTER_S,
        ),
        OwnError(status=504, code="gateway_timeout", message="no answer came in time; try again, or ask for less"),
    )
