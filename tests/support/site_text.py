"""A site file that is right."""

from __future__ import annotations

GOOD = """\
site:
  name: test
ssh:
  user: admin
hosts:
  one:
    address: 192.0.2.1
    gpus: {model: RTX A5000, count: 4}
    cuda: "12.4"
    groups:
      a:
        gpus: [0, 1]
        models: [llama3:8b]
      b:
        gpus: [2, 3]
        models:
          - mistral:7b
          - gemma:7b
  two:
    address: 192.0.2.2
gateway:
  host: two
  name: flexi.example.edu
"""
