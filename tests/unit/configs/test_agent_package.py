"""The agent travels as one file that runs with nothing but Python."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from flexi.configs import host_package


def test_the_same_modules_give_the_same_bytes() -> None:
    assert host_package.build() == host_package.build()


def test_it_runs_alone(tmp_path: Path) -> None:
    archive = tmp_path / "flexi-agent.pyz"
    archive.write_bytes(host_package.build())
    env_file = tmp_path / "a.env"
    env_file.write_text("CUDA_VISIBLE_DEVICES=\n")
    # -I: no site-packages of ours, no current directory; what it imports must be inside or in the standard library.
    done = subprocess.run(
        [sys.executable, "-I", "-S", archive, "gpus", "--env-file", env_file],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "CUDA_VISIBLE_DEVICES" in done.stderr
    assert "Traceback" not in done.stderr
