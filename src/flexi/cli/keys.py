"""`flexi keys`."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import NoReturn

import click
from rich.console import Console

from flexi.catalog.consumers import DEFAULT_CLASS
from flexi.cli.options import json_option, site_argument
from flexi.errors import EXIT_FAILED, EXIT_OK
from flexi.keys import show
from flexi.keys.gateways import Told, tell
from flexi.keys.store import KeysStore
from flexi.keys.times import End, Span
from flexi.plan import build_plan
from flexi.plan.model.site import Plan
from flexi.site import Site, find_site, load_site
from flexi.site.keys import consumers, keys_path

here_option = click.option("--here", is_flag=True, help="Only change the file: the next deploy tells the gateway.")


def _load(site: str) -> tuple[Site, Plan]:
    found = load_site(find_site(site))
    return found, build_plan(found)


@click.group("keys")
def keys() -> None:
    """API keys of the site's consumers: in force at the gateway within seconds."""


@keys.command("add")
@site_argument
@click.argument("name")
@click.option("--class", "class_name", default=DEFAULT_CLASS, show_default=True, help="One of gateway.classes.")
@click.option("--owner", help="Who answers for it: a person with an address. Stays in the keys file.")
@click.option("--purpose", help="What it is for. Stays in the keys file.")
@click.option("--expires", type=End(), help="Last day of the key (UTC), or how long it is good: 2027-03-31, 180d.")
@here_option
@json_option
def add(
    site: str,
    name: str,
    class_name: str,
    owner: str | None,
    purpose: str | None,
    expires: datetime | None,
    here: bool,
    as_json: bool,
) -> None:
    """Make a key for the new consumer NAME and show it once; only a hash of it is kept."""
    found, plan = _load(site)
    with KeysStore(found) as store:
        key = store.add(name, class_name, owner=owner, purpose=purpose, expires=expires)
        _hand_out(key, found, store, plan, here=here, as_json=as_json, name=name)


@keys.command("rotate")
@site_argument
@click.argument("name")
@click.option("--keep-old", type=Span(), default=timedelta(), help="How long the key before stays good, too: 7d, 12h.")
@click.option("--expires", type=End(), help="Last day of the new key (UTC), or how long it is good.")
@here_option
@json_option
def rotate(site: str, name: str, keep_old: timedelta, expires: datetime | None, here: bool, as_json: bool) -> None:
    """Make another key for NAME and show it once. The one before ends now, unless --keep-old."""
    found, plan = _load(site)
    with KeysStore(found) as store:
        key = store.rotate(name, keep_old=keep_old, expires=expires)
        _hand_out(key, found, store, plan, here=here, as_json=as_json, name=name)


@keys.command("revoke")
@site_argument
@click.argument("names", nargs=-1, required=True)
@here_option
@json_option
def revoke(site: str, names: tuple[str, ...], here: bool, as_json: bool) -> None:
    """End the keys of NAMES and forget these consumers. Answers that are being written go on to their end."""
    found, plan = _load(site)
    with KeysStore(found) as store:
        store.revoke(names)
        told = _tell(plan, store, here=here)
    if as_json:
        click.echo(json.dumps({"schema": 1, "revoked": list(names), "gateways": show.told_as_json(told)}, indent=2))
    else:
        click.echo(f"revoked: {', '.join(names)}")
        _say(told, here=here)
    sys.exit(_status(told))


@keys.command("list")
@site_argument
@json_option
def list_all(site: str, as_json: bool) -> None:
    """Show all consumers: class, owner, purpose, and until when their keys are good."""
    found, _ = _load(site)
    now = datetime.now(UTC)
    if as_json:
        entries = [show.as_json(entry, now) for entry in found.entries]
        click.echo(json.dumps({"schema": 1, "consumers": entries}, indent=2, ensure_ascii=False))
    else:
        show.table(found.entries, now, Console(highlight=False))


@keys.command("show")
@site_argument
@click.argument("name")
@json_option
def show_one(site: str, name: str, as_json: bool) -> None:
    """Show the consumer NAME, and what its class may do."""
    found, plan = _load(site)
    with KeysStore(found) as store:
        entry = store.entry(name)
    now = datetime.now(UTC)
    rules = next(rules for rules in plan.gateway.classes if rules.name == entry.class_name)
    if as_json:
        text = {"schema": 1, **show.as_json(entry, now), "rules": rules.model_dump(mode="json", exclude={"name"})}
        click.echo(json.dumps(text, indent=2, ensure_ascii=False))
    else:
        show.one(entry, rules, now, Console(highlight=False))


def _hand_out(key: str, site: Site, store: KeysStore, plan: Plan, *, here: bool, as_json: bool, name: str) -> NoReturn:
    """Show a new key, tell the gateways of it, and end with the exit status that this deserves."""
    if not as_json:
        # First of all: whatever comes later, nobody can show it again.
        click.echo(key)
        click.echo(f"Kept as a hash in {keys_path(site.path)}; it is shown only now.", err=True)
    told = _tell(plan, store, here=here)
    if as_json:
        entry = show.as_json(store.entry(name), datetime.now(UTC))
        click.echo(json.dumps({"schema": 1, **entry, "key": key, "gateways": show.told_as_json(told)}, indent=2))
    else:
        _say(told, here=here)
    sys.exit(_status(told))


def _tell(plan: Plan, store: KeysStore, *, here: bool) -> list[Told]:
    """Within the store's `with`: of two changes at a time the later one must be told last."""
    return [] if here else tell(plan, consumers(store.entries))


def _say(told: Sequence[Told], *, here: bool) -> None:
    if here:
        click.echo("The gateway does not know it yet: the next deploy tells it.", err=True)
    for one in told:
        if one.known:
            click.echo(f"{one.host} knows it.", err=True)
        elif one.problem is None:
            click.echo(f"{one.host} is no gateway yet: the first deploy tells it.", err=True)
        else:
            click.echo(f"{one.host} does not know it yet: {one.problem}. Mend that, and deploy.", err=True)


def _status(told: Sequence[Told]) -> int:
    return EXIT_FAILED if any(one.problem for one in told) else EXIT_OK
