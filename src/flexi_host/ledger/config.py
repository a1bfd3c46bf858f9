"""What the gateway's ledger keeps, and for how long: /etc/flexi/ledger.json, written by the deploy from the plan."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from flexi_host.common.fields import Fields, as_text, load_config

MAX_DAYS = 3660


@dataclass(frozen=True)
class LedgerConfig:
    port: int
    """Of the figures, on the loopback interface; 0 takes any free one."""
    retention_days: int
    """How long a line of the access log stays; with 0 none is written."""
    usage_days: int
    """How long the hourly sums of a consumer stay."""
    models: tuple[str, ...]
    """Canonical names. What a client asked for beside them is its own text, and is kept nowhere."""
    log_dir: Path = Path("/var/log/flexi")
    state_dir: Path = Path("/var/lib/flexi-ledger")

    @classmethod
    def load(cls, path: Path) -> LedgerConfig:
        """Read `path`; ConfigError with the file, the field and the value where it is wrong."""
        return load_config(path, cls.from_json)

    @classmethod
    def from_json(cls, value: Mapping[str, object]) -> LedgerConfig:
        fields = Fields(value, "ledger")
        config = cls(
            port=fields.port("port"),
            retention_days=fields.whole("retention_days", 0, MAX_DAYS),
            usage_days=fields.whole("usage_days", 1, MAX_DAYS),
            models=tuple(as_text(item, where) for item, where in fields.items("models")),
            log_dir=Path(fields.text("log_dir", str(cls.log_dir))),
            state_dir=Path(fields.text("state_dir", str(cls.state_dir))),
        )
        fields.done()
        return config
