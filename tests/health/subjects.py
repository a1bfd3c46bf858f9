"""What a check can be about, besides a host."""

from __future__ import annotations

from dataclasses import dataclass

from flexi.plan.model import Backend, InstancePlan, ModelOnInstance


@dataclass(frozen=True)
class Resident:
    """A model on an instance."""

    instance: InstancePlan
    model: ModelOnInstance

    @property
    def host(self) -> str:
        return self.instance.host

    @property
    def label(self) -> str:
        return f"{self.model.name} on {self.instance.group}"


@dataclass(frozen=True)
class Route:
    """A model at the gateway."""

    gateway: str
    backend: Backend

    @property
    def host(self) -> str:
        return self.gateway

    @property
    def label(self) -> str:
        return self.backend.model
