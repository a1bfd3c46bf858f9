"""The CUDA toolkit from NVIDIA's repository, whose own driver packages are pinned away.

Ollama brings its CUDA runtime with it; the toolkit is for people who compile on the server.
"""

from pyinfra.api import deploy
from pyinfra.operations import files

from flexi.configs.rendering import render
from flexi.operations.apt_sources import source_added
from flexi.operations.packages import installed, signing_key
from flexi.plan.model.cuda import CudaPlan

KEYRING = "/etc/apt/keyrings/flexi-cuda.asc"


@deploy("CUDA")
def install(plan: CudaPlan) -> None:
    # The pins come before the repository: there is no moment in which its driver could win.
    files.template(
        name="Pin the repository's driver packages away",
        src="templates/driver/preferences.j2",
        dest="/etc/apt/preferences.d/flexi-cuda",
        mode="0644",
        pins=plan.pins,
    )
    if plan.repository:
        signing_key(
            name="Fetch the repository's signing key",
            url=plan.key_url,
            dest=KEYRING,
            fingerprint=plan.key_fingerprint,
        )
        source_added(
            name="Add NVIDIA's CUDA repository, if apt can read it beside the host's",
            dest=plan.sources_file,
            content=render("cuda/cuda.sources.j2", repository=plan.repository, keyring=KEYRING),
        )
    installed(name=f"Install the CUDA toolkit {plan.version}", packages=plan.packages)
