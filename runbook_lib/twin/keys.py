"""The twin's SSH keys: stable over its life, so that strict host key checking stays on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import asyncssh

if TYPE_CHECKING:
    from pathlib import Path

    from runbook_lib.twin.world import World


def ensure_keys(world: World) -> None:
    """Write the client key, a host key per node, and known_hosts, unless they are there."""
    root = world.root
    _key(root / "id_ed25519", f"twin of {world.params.cluster.name}")
    folder = root / "host_keys"
    folder.mkdir(mode=0o700, exist_ok=True)
    lines = []
    for node in world.nodes.values():
        public = _key(folder / node.name, node.name)
        lines.append(f"[{node.address}]:{world.params.cluster.ssh.port} {' '.join(public.split()[:2])}\n")
    (root / "known_hosts").write_text("".join(lines), encoding="utf-8")


def _key(file: Path, comment: str) -> str:
    public = file.with_name(f"{file.name}.pub")
    if not file.exists() or not public.exists():
        key = asyncssh.generate_private_key("ssh-ed25519", comment=comment)
        key.write_private_key(str(file))
        file.chmod(0o600)
        key.write_public_key(str(public))
    return public.read_text(encoding="utf-8")
