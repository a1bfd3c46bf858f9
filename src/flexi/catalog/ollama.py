"""Ollama's request options that change how a model is loaded."""

from __future__ import annotations

GUARDED_OPTIONS = (
    "keep_alive",
    "num_ctx",
    "num_batch",
    "num_gpu",
    "main_gpu",
    "use_mmap",
    "num_thread",
    "draft_num_predict",
    "shift",
)
"""What in a request loads a model anew or unloads it, for everyone (Ollama 0.24.0, server/sched.go needsReload; and
keep_alive, which sets how long the model stays)."""
