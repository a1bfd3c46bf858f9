"""The plan as a page that an admin can pin to the wall. Text only: colour comes from the console, if it has any."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from flexi.plan.model.chat import ChatPlan
from flexi.plan.model.gateway import ClassPlan
from flexi.plan.model.ollama import InstancePlan, ModelOnInstance
from flexi.plan.model.site import HostPlan, Plan

NARROW = 72
"""Columns; below this the tables leave out what is not needed to find a model."""
BAR = 24


def render_plan(plan: Plan, console: Console) -> None:
    """Print the plan: hosts with their groups and models, the gateway's table, warnings."""
    page = _Page(narrow=console.width < NARROW, ascii_only=console.options.ascii_only)
    for block in page.blocks(plan):
        console.print(block)


class _Page:
    def __init__(self, *, narrow: bool, ascii_only: bool) -> None:
        self.narrow = narrow
        self.full, self.empty, self.dot, self.times = ("#", ".", "-", "x") if ascii_only else ("█", "░", "·", "×")

    def blocks(self, plan: Plan) -> Iterator[RenderableType]:
        contact = f"  {self.dot}  {plan.contact}" if plan.contact else ""
        yield Text.assemble((plan.site, "bold"), f"  {self.dot}  {plan.gateway.url}  ({plan.gateway.name}){contact}")
        for host in plan.hosts:
            yield Text()
            yield self._host(host, plan)
        yield Text()
        yield self._gateway(plan)
        if plan.chat:
            yield Text()
            yield self._chat(plan.chat)
        if plan.warnings:
            yield Text()
            yield self._warnings(plan)

    def _host(self, host: HostPlan, plan: Plan) -> RenderableType:
        title = Text.assemble((host.name, "bold cyan"), f"  {host.ssh.address}  {host.platform}")
        if host.name in plan.gateway.hosts:
            title.append("  gateway", style="magenta")
        facts = []
        if host.gpu_count:
            facts.append(f"{host.gpu_count} {self.times} {host.gpu_model}")
        if host.driver:
            facts.append(f"driver {host.driver.branch}")
        if host.cuda:
            facts.append(f"CUDA {host.cuda.version}")
        if host.ollama:
            facts.append(f"Ollama {host.ollama.version}")
        parts: list[RenderableType] = [title]
        if facts:
            parts.append(_indented(Text(f"  {self.dot}  ".join(facts))))
        for instance in host.ollama.instances if host.ollama else ():
            parts += [Text(), _indented(self._instance(instance))]
        return Group(*parts)

    def _instance(self, instance: InstancePlan) -> RenderableType:
        title = Text.assemble(
            ("group ", ""),
            (instance.group, "bold green"),
            f"  port {instance.port}  GPUs {_ranges(instance.gpus)}",
        )
        table = Table(box=None, pad_edge=False, show_edge=False)
        table.add_column("model", overflow="fold")
        table.add_column("weights", justify="right", no_wrap=True)
        table.add_column("contexts", justify="right", no_wrap=True)
        if not self.narrow:
            table.add_column("GPUs", justify="right", no_wrap=True)
            table.add_column(f"slots {self.times} tokens", justify="right", no_wrap=True)
            table.add_column("tokens/s", justify="right", no_wrap=True)
        for model in instance.models:
            table.add_row(*self._model(model))
        return Group(title, table, *self._bars(instance))

    def _model(self, model: ModelOnInstance) -> list[str]:
        cells = [model.name, _gb(model.weights_bytes), _gb(model.kv_cache_bytes)]
        if not self.narrow:
            rate = f"{model.tokens_per_second:g}" if model.tokens_per_second else ""
            cells += [str(model.gpu_count), f"{model.slots} {self.times} {model.context}", rate]
        return cells

    def _bars(self, instance: InstancePlan) -> Iterator[Text]:
        """The group's VRAM as a whole, then card by card."""
        used, total = sum(instance.gpu_used_bytes), instance.vram_bytes
        yield self._bar("VRAM", used, total)
        cards = len(instance.gpu_used_bytes)
        if cards < 2 or self.narrow:
            return
        card_bytes = total // cards
        for start in range(0, cards, 4):
            line = Text()
            for index in range(start, min(start + 4, cards)):
                name = instance.gpus[index] if isinstance(instance.gpus[index], int) else index
                line.append(f"{name!s:>2} ", style="dim")
                line.append_text(self._gauge(instance.gpu_used_bytes[index], card_bytes, 8))
                line.append("  ")
            line.rstrip()
            yield line

    def _bar(self, label: str, used: int, total: int) -> Text:
        share = used / total if total else 0.0
        width = 12 if self.narrow else BAR
        text = Text(f"{label} ")
        text.append_text(self._gauge(used, total, width))
        text.append(f" {_gb(used)} of {_gb(total)} ({share:.0%})")
        return text

    def _gauge(self, used: int, total: int, width: int) -> Text:
        share = min(1.0, used / total) if total else 0.0
        filled = round(share * width)
        style = "green" if share < 0.9 else "yellow" if share < 0.97 else "red"
        return Text.assemble((self.full * filled, style), (self.empty * (width - filled), "dim"))

    def _gateway(self, plan: Plan) -> RenderableType:
        gateway = plan.gateway
        title = Text.assemble(("gateway", "bold magenta"), f"  {gateway.url}  on {' and '.join(gateway.hosts)}")
        table = Table(box=None, pad_edge=False, show_edge=False)
        table.add_column("model", overflow="fold")
        table.add_column("instance", overflow="fold")
        table.add_column("at once", justify="right", no_wrap=True)
        for backend in plan.gateway.backends:
            where = "{0.name}" if self.narrow else "{0.name} ({0.address}:{0.port})"
            servers = ", ".join(where.format(server) for server in backend.servers)
            table.add_row(
                " = ".join((*backend.names, *backend.aliases)),
                servers,
                str(sum(s.max_connections for s in backend.servers)),
            )
        named = [f"{consumer.name} ({consumer.class_name})" for consumer in gateway.consumers]
        consumers = ", ".join(named) or "none yet (./flexi keys add)"
        without = ", ".join(gateway.anonymous_paths) or "nothing"
        return Group(
            title,
            _indented(table),
            _indented(Text(f"consumers: {consumers}")),
            *(_indented(Text(f"class {rules.name}: {_rules(rules)}")) for rules in gateway.classes),
            _indented(Text(f"without a key: {without}")),
        )

    def _chat(self, chat: ChatPlan) -> RenderableType:
        title = Text.assemble(("chat", "bold magenta"), f"  {chat.url}  on {chat.host}  Open WebUI {chat.version}")
        embedding = f"; index: {chat.embedding_model}" if chat.embedding_model else ""
        models = f"models: {', '.join(chat.models)}; first: {chat.default_model}; titles: {chat.task_model}{embedding}"
        return Group(title, _indented(Text(models)))

    def _warnings(self, plan: Plan) -> RenderableType:
        lines = [Text.assemble((f"{w.where}: ", "yellow"), w.message) for w in plan.warnings]
        return Group(Text("warnings", style="bold yellow"), *(_indented(line) for line in lines))


def _rules(rules: ClassPlan) -> str:
    bounds = [f"{value} {name.replace('_', ' ')}" for name, value in rules.limits]
    models = "all models" if rules.models is None else ", ".join(rules.models)
    places = [f"from {', '.join(rules.networks)}"] if rules.networks else []
    return "; ".join([models, ", ".join(bounds), rules.priority, *places])


def _indented(block: RenderableType) -> Padding:
    return Padding(block, (0, 0, 0, 2), expand=False)


def _gb(count: int) -> str:
    return f"{count / 1e9:.1f} GB"


def _ranges(gpus: tuple[int, ...] | tuple[str, ...]) -> str:
    """`0-7`, `0, 2`, or UUIDs cut to what tells them apart."""
    if not all(isinstance(gpu, int) for gpu in gpus):
        return ", ".join(str(gpu)[:12] for gpu in gpus)
    numbers = sorted(int(gpu) for gpu in gpus)
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)
