"""The CUDA toolkit from NVIDIA's repository, whose own driver packages are pinned away.

Ollama brings its CUDA runtime with it; the toolkit is for people who compile on the server.
"""

from pyinfra.api import deploy
from pyinfra.operations import files

from flexi.configs.rendering import render
from flexi.operations import apt_sources, packages
from flexi.plan.model.cuda import CudaPlan

KEYRING = "/etc/apt/keyrings/flexi-cuda.asc"


@deploy("CUDA")
def install(cuda: CudaPlan) -> None:
    """Install the toolkit, without the repository's driver."""
    # The pins come before the repository: there is no moment in which its driver could win.
    files.template(
        name="Pin the repository's driver packages away",
        src="templates/driver/preferences.j2",
        dest="/etc/apt/preferences.d/flexi-cuda",
        mode="0644",
        pins=cuda.pins,
    )
    if cuda.repository:
        packages.signing_key(
            name="Fetch the repository's signing key",
            url=cuda.key_url,
            dest=KEYRING,
            fingerprint=cuda.key_fingerprint,
        )
        apt_sources.add(
            name="Add NVIDIA's CUDA repository, if apt can read it beside the host's",
            dest=cuda.sources_file,
            content=render("cuda/cuda.sources.j2", repository=cuda.repository, keyring=KEYRING),
        )
    packages.present(name=f"Install the CUDA toolkit {cuda.version}", names=cuda.packages)
