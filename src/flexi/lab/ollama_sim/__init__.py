"""A simulated Ollama 0.24.0: the `ollama` command, its server and a model registry, without GPUs or weights.

What it does like the real one, and what it does not, stands in `docs/develop/simulated-ollama.md`. References such as
"server/sched.go" in this package name files of Ollama's source at tag v0.24.0.

Everything but `archive.py` runs on hosts: standard library only, Python 3.10, relative imports.
"""
