"""One stub package: its control fields and the few files that the simulated driver reads."""

from __future__ import annotations

import gzip
import io
import json
import struct
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath

EPOCH = "1700000000"
"""The same sources give the same package: every timestamp inside is this one."""


@dataclass(frozen=True)
class File:
    content: bytes
    mode: int = 0o644


@dataclass(frozen=True)
class Stub:
    """A Debian package as a table row. Relations are written as in debian/control."""

    name: str
    version: str
    pocket: str
    """Where it stands: a suite (`jammy`, `jammy-security`), or one of NVIDIA's flat repositories (`ubuntu2204`)."""
    depends: tuple[str, ...] = ()
    provides: tuple[str, ...] = ()
    conflicts: tuple[str, ...] = ()
    alone: tuple[str, ...] = ()
    """Names of which only one package can be installed: it provides, conflicts with and replaces each."""
    section: str = "restricted/misc"
    """Before the stroke stands the component; without one it is `main`."""
    files: Mapping[str, File] = field(default_factory=dict)
    scripts: Mapping[str, str] = field(default_factory=dict)
    """Maintainer scripts by name (`postinst`, `prerm`), without the first line."""

    @property
    def component(self) -> str:
        return self.section.rpartition("/")[0] or "main"

    @property
    def file_name(self) -> str:
        return f"{self.name}_{self.version.split(':')[-1]}_amd64.deb"

    def control(self) -> str:
        lines = [
            f"Package: {self.name}",
            f"Version: {self.version}",
            "Architecture: amd64",
            "Maintainer: flexi lab <root@localhost>",
            f"Section: {self.section}",
            "Priority: optional",
        ]
        relations = {
            "Depends": self.depends,
            "Provides": self.provides + self.alone,
            "Conflicts": self.conflicts + self.alone,
            "Replaces": self.conflicts + self.alone,
        }
        lines += [f"{key}: {', '.join(values)}" for key, values in relations.items() if values]
        return "\n".join(
            [*lines, "Description: stub of the flexi lab", " It has the name and the relations of the"]
        ) + ("\n vendor's package and nothing of its content.\n")


def marker(path: str, **content: str) -> dict[str, File]:
    """A file for the simulated driver (see `gpu_sim/kernel.py`)."""
    return {f"usr/lib/flexi-lab/{path}": File((json.dumps(content) + "\n").encode())}


def kernel_image(
    name: str, release: str, version: str, pocket: str, section: str, depends: tuple[str, ...] = ()
) -> Stub:
    """A kernel that the simulated driver can boot, with the hooks that a real one runs when it is installed or goes
    (debian/templates/image.postinst.in in the kernel's source)."""
    hooks = (
        'version={release}; directory=/etc/kernel/{step}.d; if [ -d $directory ]; then DEB_MAINT_PARAMS="$*" '
        "run-parts --report --exit-on-error --arg=$version --arg=/boot/vmlinuz-$version $directory; fi"
    )
    return Stub(
        name,
        version,
        pocket,
        ("kmod", *depends),
        section=section,
        files={
            **marker(f"kernels/{release}", version=version),
            f"boot/vmlinuz-{release}": File(b"stub of the flexi lab\n"),
            f"lib/modules/{release}/modules.builtin": File(b""),
        },
        scripts={step: hooks.format(release=release, step=step) for step in ("postinst", "postrm")},
    )


def module_file(kernel: str, driver: str) -> File:
    """A kernel module with nothing but what `modinfo` reads: an ELF object whose section .modinfo says the version."""
    info = b"".join(
        f"{line}\0".encode() for line in (f"version={driver}", "license=NVIDIA", f"vermagic={kernel} SMP mod_unload")
    )
    names = b"\0.modinfo\0.shstrtab\0"
    header = 64
    tables = header + len(info) + len(names)
    padding = -tables % 8
    sections = (
        bytes(64),
        struct.pack("<IIQQQQIIQQ", 1, 1, 2, 0, header, len(info), 0, 0, 1, 0),
        struct.pack("<IIQQQQIIQQ", 10, 3, 0, 0, header + len(info), len(names), 0, 0, 1, 0),
    )
    ident = b"\x7fELF\x02\x01\x01" + bytes(9)
    # ET_REL, EM_X86_64; three sections, of which the last names them (man 5 elf).
    elf = ident + struct.pack("<HHIQQQIHHHHHH", 1, 62, 1, 0, 0, tables + padding, 0, header, 0, 0, 64, 3, 2)
    return File(elf + info + names + bytes(padding) + b"".join(sections))


def build(stub: Stub) -> bytes:
    """The package as a file's content (`man 5 deb`). Not by dpkg-deb: some hundreds of processes take long."""
    control = {"control": File(stub.control().encode())}
    for name, body in stub.scripts.items():
        control[name] = File(f"#!/bin/sh\nset -e\n{body}\n".encode(), 0o755)
    members = {
        "debian-binary": b"2.0\n",
        "control.tar.gz": _tar(control),
        "data.tar.gz": _tar(stub.files),
    }
    out = b"!<arch>\n"
    for name, content in members.items():
        out += f"{name:<16}{EPOCH:<12}{0:<6}{0:<6}{0o100644:<8o}{len(content):<10}`\n".encode()
        out += content + b"\n" * (len(content) % 2)
    return out


def _tar(files: Mapping[str, File]) -> bytes:
    out = io.BytesIO()
    directories = {str(parent) for name in files for parent in PurePosixPath(name).parents}
    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for name in sorted({*directories, *files, "."}):
            file = files.get(name)
            entry = tarfile.TarInfo("./" if name == "." else f"./{name}" + ("" if file else "/"))
            entry.mtime, entry.uname, entry.gname = int(EPOCH), "root", "root"
            entry.mode = file.mode if file else 0o755
            entry.type = tarfile.REGTYPE if file else tarfile.DIRTYPE
            entry.size = len(file.content) if file else 0
            tar.addfile(entry, io.BytesIO(file.content) if file else None)
    return gzip.compress(out.getvalue(), compresslevel=1, mtime=0)
