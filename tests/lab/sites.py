"""Site files of other shapes for the lab's machines."""

from __future__ import annotations


def pair(
    branch: str = "535-server",
    version: str = "0.24.0",
    config: str = "../ssh_config",
    extra: str = "",
) -> str:
    """Both servers have the same two models, so that one can do without the other."""
    return f"""\
site: {{name: pair}}
ssh: {{user: admin, config: {config}}}
mirrors:
  ollama: http://10.87.0.2/ollama
  cuda: http://10.87.0.2/cuda/ubuntu2204/x86_64
  models: http://10.87.0.2:5000
driver: {{branch: {branch}}}
ollama: {{version: {version}}}
{extra}
hosts:
  server-a:
    address: 10.87.0.11
    gpus: {{model: RTX A5000, count: 8}}
    groups:
      a: {{gpus: all, parallel: 2, models: [llama3:8b, phi3:3.8b]}}
  server-b:
    address: 10.87.0.12
    gpus: {{model: A40, count: 2}}
    groups:
      b: {{gpus: all, parallel: 2, models: [llama3:8b, phi3:3.8b]}}
  gateway:
    address: 10.87.0.10
gateway: {{host: gateway, name: flexi.pair.test}}
"""


def others(
    branch: str = "535-server",
    version: str = "0.24.0",
    config: str = "../ssh_config",
    hosts: tuple[str, ...] = ("server-c", "server-d"),
) -> str:
    """The lab's machines with Debian 12 and Ubuntu 24.04, one card each."""
    machines = {
        "server-c": "address: 10.87.0.13\n    platform: debian-12",
        "server-d": "address: 10.87.0.14\n    platform: ubuntu-24.04",
    }
    text = f"""\
site: {{name: others}}
ssh: {{user: admin, config: {config}}}
mirrors:
  ollama: http://10.87.0.2/ollama
  models: http://10.87.0.2:5000
driver: {{branch: {branch}, kernel: generic}}
ollama: {{version: {version}}}
gateway: {{host: gateway, name: flexi.others.test}}
hosts:
  gateway:
    address: 10.87.0.10
"""
    for name in hosts:
        text += f"""\
  {name}:
    {machines[name]}
    gpus: {{model: RTX A5000, count: 1}}
    groups:
      {name[-1]}: {{gpus: all, parallel: 2, models: [llama3:8b, phi3:3.8b]}}
"""
    return text
