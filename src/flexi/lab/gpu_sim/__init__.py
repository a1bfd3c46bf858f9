"""Simulated NVIDIA GPUs: what the driver, its user space and `nvidia-smi` say inside a lab machine.

Runs on the machines as well as here: standard library only, Python 3.10, relative imports.
"""
