"""From the plan to the files that flexi-agent's programs read on the hosts."""

from __future__ import annotations

from flexi.plan.model.ollama import ModelOnInstance
from flexi.plan.model.site import HostPlan, Plan


def agent_config(host: HostPlan) -> dict[str, object]:
    """/etc/flexi/agent.json of a GPU host; ValueError for a host that has no instances."""
    if host.agent is None or host.ollama is None:
        raise ValueError(f"{host.name} has no instances, so no agent")
    return {
        "host": host.name,
        "check_port": host.agent.check_port,
        "interval_s": host.agent.interval_s,
        "gpus": {
            "model": host.gpu_model,
            "memory_mib": host.gpu_memory_mib,
            "memory_said": host.gpu_memory_said,
        },
        "instances": [
            {
                "group": instance.group,
                "url": f"http://127.0.0.1:{instance.port}",
                "env_file": instance.environment_file,
                "store": instance.store,
                "models": [_model(model) for model in instance.models],
            }
            for instance in host.ollama.instances
        ],
    }


def catalogue_config(plan: Plan) -> dict[str, object]:
    """/etc/flexi/catalogue.json of the gateway: every instance as the gateway reaches it, every model."""
    return {
        "port": plan.gateway.catalogue_port,
        "instances": [
            {"group": instance.group, "url": f"http://{plan.host(instance.host).ssh.address}:{instance.port}"}
            for instance in plan.instances
        ],
        "models": sorted(backend.model for backend in plan.gateway.backends),
        "aliases": {alias: backend.model for backend in plan.gateway.backends for alias in backend.aliases},
    }


def ledger_config(plan: Plan) -> dict[str, object]:
    """/etc/flexi/ledger.json of the gateway."""
    ledger = plan.gateway.ledger
    return {
        "port": ledger.port,
        "retention_days": ledger.retention_days,
        "usage_days": ledger.usage_days,
        "models": [backend.model for backend in plan.gateway.backends],
    }


def _model(model: ModelOnInstance) -> dict[str, object]:
    return {
        "name": model.name,
        "source": model.source,
        "insecure": model.insecure,
        "context": model.context,
        "embedding": model.embedding,
    }
