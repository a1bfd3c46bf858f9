"""`python3 -m flexi.lab.ollama_sim`, and the entry of the zipapp that stands in for `bin/ollama`."""

from __future__ import annotations

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
