"""What the agent is told to keep right: /etc/flexi/agent.json, written by the deploy from the plan."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from flexi_host.agent.smi import Expected
from flexi_host.common.fields import ConfigError, Fields, load_config


@dataclass(frozen=True)
class ModelConfig:
    name: str
    """As clients say it: `llama3:8b`."""
    source: str
    """What is pulled: equal to `name`, or a mirror's long name, which is then renamed to `name`."""
    insecure: bool
    """The source is a mirror on plain HTTP."""
    context: int
    """Tokens per request that the plan expects in /api/ps."""
    embedding: bool
    """Loaded through /api/embed, because /api/generate refuses it."""


@dataclass(frozen=True)
class InstanceConfig:
    group: str
    url: str
    """http://127.0.0.1:PORT of the instance."""
    env_file: Path
    """The instance's environment; its CUDA_VISIBLE_DEVICES names the GPUs of the group."""
    store: Path
    """Its OLLAMA_MODELS."""
    models: tuple[ModelConfig, ...]
    """In the order in which they are downloaded and preloaded."""


@dataclass(frozen=True)
class AgentConfig:
    host: str
    check_port: int
    """TCP port for HAProxy's agent-check; 0 takes any free one."""
    interval_s: int
    """The store is read at least this often; memory and GPUs are looked at every few seconds anyway."""
    state_dir: Path
    drain_dir: Path
    """A file named like a group in here drains it at the gateway."""
    homes_dir: Path
    """Every store of this host is at `<homes_dir>/<group>/models`, those of groups that are no more too."""
    bundle_dir: Path
    """Models that the deploy brought along, laid out like a store."""
    share_socket: Path
    instances: tuple[InstanceConfig, ...]
    gpus: Expected | None = None
    """What each card of this host has to be by the site file."""

    @classmethod
    def load(cls, path: Path) -> AgentConfig:
        """Read `path`; ConfigError with the file, the field and the value where it is wrong."""
        return load_config(path, cls.from_json)

    @classmethod
    def from_json(cls, value: Mapping[str, object]) -> AgentConfig:
        fields = Fields(value, "agent")
        config = cls(
            host=fields.text("host"),
            check_port=fields.port("check_port"),
            interval_s=fields.whole("interval_s", 1, 60),
            state_dir=Path(fields.text("state_dir", "/run/flexi-agent")),
            drain_dir=Path(fields.text("drain_dir", "/etc/flexi/drain.d")),
            homes_dir=Path(fields.text("homes_dir", "/var/lib/ollama")),
            bundle_dir=Path(fields.text("bundle_dir", "/var/lib/flexi/bundle/models")),
            share_socket=Path(fields.text("share_socket", "/run/flexi-share.sock")),
            instances=tuple(_instance(item, where) for item, where in fields.items("instances")),
            gpus=_gpus(fields.section("gpus")),
        )
        fields.done()
        _refuse_twice([instance.group for instance in config.instances], "agent.instances: group")
        return config


def _gpus(fields: Fields | None) -> Expected | None:
    if fields is None:
        return None
    gpus = Expected(
        model=fields.text("model"),
        memory_mib=fields.whole("memory_mib", 1, 2**31),
        memory_said=fields.flag("memory_said", False),
    )
    fields.done()
    return gpus


def _instance(value: object, where: str) -> InstanceConfig:
    fields = Fields(value, where)
    instance = InstanceConfig(
        group=fields.text("group"),
        url=fields.url("url"),
        env_file=Path(fields.text("env_file")),
        store=Path(fields.text("store")),
        models=tuple(_model(item, place) for item, place in fields.items("models")),
    )
    fields.done()
    if not instance.group.isascii() or any(c.isspace() or c == "/" for c in instance.group):
        raise ConfigError(f"{where}.group: {instance.group!r} holds blanks, slashes or letters outside ASCII")
    _refuse_twice([model.name for model in instance.models], f"{where}.models: name")
    return instance


def _model(value: object, where: str) -> ModelConfig:
    fields = Fields(value, where)
    name = fields.text("name")
    model = ModelConfig(
        name=name,
        source=fields.text("source", name),
        insecure=fields.flag("insecure", False),
        context=fields.whole("context", 1, 2**31),
        embedding=fields.flag("embedding", False),
    )
    fields.done()
    return model


def _refuse_twice(names: list[str], what: str) -> None:
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"{what} {name!r} appears twice")
