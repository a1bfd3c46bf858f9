"""`flexi bench`: measurements."""

from __future__ import annotations

from pathlib import Path

import click
from rich.console import Console

from flexi.bench import lab as lab_bench
from flexi.bench import preload as preload_bench
from flexi.bench.gateway import measure as gateway_bench
from flexi.bench.gateway import show as gateway_show
from flexi.bench.gateway.rivals import RIVALS
from flexi.cli.options import json_option, out, print_json


@click.group()
def bench() -> None:
    """Measurements, never part of the tests."""


@bench.command("lab")
@json_option
def bench_lab(as_json: bool) -> None:
    """Time `lab up`, cold and warm, in a lab of its own."""
    measurements = lab_bench.measure()
    if as_json:
        print_json(lab_bench.as_json(measurements))
    else:
        lab_bench.show(measurements, out())


@bench.command("preload")
@click.option("--name", default="lab", show_default=True, help="The lab, which must be up.")
@json_option
def bench_preload(name: str, as_json: bool) -> None:
    """Cut the power of the lab's servers, and time from power-on to each model's first token."""
    starts = preload_bench.measure(name, Console(stderr=True) if as_json else out())
    if as_json:
        print_json(preload_bench.as_json(starts))
    else:
        preload_bench.show(starts, out())


@bench.command("gateway")
@click.option("--name", default="bench", show_default=True, help="The lab that is made for it and removed after it.")
@click.option("--rival", "rivals", multiple=True, type=click.Choice(list(RIVALS)), help="Only this one; repeatable.")
@click.option("--markdown", type=click.Path(path_type=Path), metavar="FILE", help="Write the table here as well.")
@click.option("--plot", type=click.Path(path_type=Path), metavar="FILE", help="Draw a plot here (SVG).")
@json_option
def bench_gateway(name: str, rivals: tuple[str, ...], markdown: Path | None, plot: Path | None, as_json: bool) -> None:
    """Measure what the gateway costs, against the instances themselves and against other proxies."""
    run = gateway_bench.measure(name, rivals or tuple(RIVALS), Console(stderr=True, highlight=False))
    if markdown is not None:
        markdown.write_text(gateway_show.markdown(run), encoding="utf-8")
    if plot is not None:
        plot.write_text(gateway_show.svg(run), encoding="utf-8")
    if as_json:
        print_json(gateway_show.as_json(run))
    else:
        gateway_show.show(run, out())
