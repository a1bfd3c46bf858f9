"""Two gateways: one is changed while the other serves, and a change that went wrong stops at the first."""

from __future__ import annotations

import time

import pytest
from pyinfra.api import Config, Inventory, State
from pyinfra.api.connect import connect_all
from pyinfra.api.exceptions import PyinfraError
from pyinfra.api.operation import OperationMeta, add_op
from pyinfra.api.operations import run_ops
from pyinfra.connectors.util import CommandOutput, OutputLine
from pyinfra.operations import server

from flexi.facts.gateway import GatewayCertificate, InterfaceWithAddress
from flexi.operations import keepalived, rollout

ASK = "curl gateway"


def state_of(*hosts: str, **responses: object) -> State:
    fake = {"fake_delay": 0, "fake_delay_jitter": 0, "fake_responses": responses.get("answers", {})}
    state = State(Inventory(([(f"@fake/{name}", fake) for name in hosts], {})), Config())
    connect_all(state)
    return state


def change(state: State, name: str) -> OperationMeta:
    host = state.inventory.get_host(f"@fake/{name}")
    return add_op(state, server.shell, name="change", commands=["true"], host=host)[host]


def end(state: State, name: str, *after: OperationMeta) -> None:
    host = state.inventory.get_host(f"@fake/{name}")
    add_op(state, keepalived.wait_until_gateway_serves, probe_command=ASK, after=after, host=host)


def begin(state: State, name: str, number: int, mine: int) -> None:
    host = state.inventory.get_host(f"@fake/{name}")
    add_op(state, rollout.wait_for_turn, number=number, own_turn=mine, row=rollout.GATEWAYS, host=host)


def deploy(state: State, *, changes: bool) -> None:
    """pyinfra runs what is added by the place in each host's row: the first gateway waits as often as the standby
    works."""
    begin(state, "standby", 0, 0)
    end(state, "standby", *([change(state, "standby")] if changes else []))
    begin(state, "standby", 1, 0)
    for _ in range(3 if changes else 2):
        begin(state, "first", 0, 1)
    begin(state, "first", 1, 1)
    change(state, "first")


def names(state: State) -> list[str]:
    return [host.name for host in state.failed_hosts]


def test_the_first_is_changed_once_the_standby_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "sleep", lambda _: None)
    state = state_of("first", "standby")
    deploy(state, changes=True)
    run_ops(state)
    assert names(state) == []


def test_the_first_is_not_touched_where_the_standby_does_not_serve(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    clock = iter(range(0, 100_000, 10))
    monkeypatch.setattr(time, "monotonic", lambda: float(next(clock)))
    monkeypatch.setattr(time, "sleep", lambda _: None)
    state = state_of("first", "standby")
    monkeypatch.setattr(
        "pyinfra.connectors.fake.FakeConnector.run_shell_command", lambda _, command, **__: _answer(str(command))
    )
    deploy(state, changes=True)
    with pytest.raises(PyinfraError):
        run_ops(state)
    assert sorted(names(state)) == ["@fake/first", "@fake/standby"]
    assert "the gateway does not serve: connection refused" in caplog.text
    assert "not touched: @fake/standby did not come back right" in caplog.text


def _answer(command: str) -> tuple[bool, CommandOutput]:
    return command != ASK, CommandOutput([OutputLine("stderr", "connection refused")] if command == ASK else [])


def test_a_gateway_that_nothing_changed_is_not_asked() -> None:
    state = state_of("first", "standby")
    deploy(state, changes=False)
    run_ops(state)
    assert names(state) == []


def test_the_interface_is_the_one_that_has_the_hosts_address() -> None:
    line = r"7: ens18f0    inet 192.0.2.7/24 brd 192.0.2.255 scope global ens18f0\       valid_lft forever"
    assert InterfaceWithAddress().process([line]) == "ens18f0"
    assert InterfaceWithAddress().process([]) is None


def test_an_address_that_the_host_does_not_have_is_refused(caplog: pytest.LogCaptureFixture) -> None:
    state = state_of("first")
    host = state.inventory.get_host("@fake/first")
    add_op(
        state, keepalived.write_settings, dest="/x", address="192.0.2.7", content=lambda interface: interface, host=host
    )
    with pytest.raises(PyinfraError):
        run_ops(state)
    assert "no interface of this host has 192.0.2.7" in caplog.text


def test_what_openssl_says_of_a_certificate() -> None:
    """`openssl x509` 3.0 as it prints."""
    truth = GatewayCertificate().process(
        [
            "ordered 22",
            "sha256 11",
            "subject=CN=flexi gateway (self-signed)",
            "issuer=CN=flexi gateway (self-signed)",
            "X509v3 Subject Alternative Name: ",
            "    DNS:flexi.example.edu, IP Address:192.0.2.7",
            "lasts",
        ]
    )
    assert (truth.sha256, truth.ordered_sha256, truth.self_signed, truth.lasts) == ("11", "22", True, True)
    assert truth.names == {"DNS:flexi.example.edu", "IP:192.0.2.7"}
    other = GatewayCertificate().process(["sha256 11", "subject=CN=a", "issuer=CN=a"])
    assert (other.self_signed, other.lasts, other.ordered_sha256) == (False, False, None)
