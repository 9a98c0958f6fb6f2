"""Where a host is and how to log in: the only thing that remote needs to know about params."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Target:
    """One host to log in to.

    key_file: path of the private key; None lets the agent and the default keys of ~/.ssh answer
    known_hosts: path of the cluster's pinned host keys; no other file is read
    jump: the host to go through, held to the same rules, with its own known_hosts
    connect_timeout_s: holds for each of TCP, banner, key exchange and login
    """

    name: str
    address: str
    port: int
    user: str
    key_file: str | None
    known_hosts: str
    become: Literal["none", "sudo"] = "none"
    jump: Target | None = None
    connect_timeout_s: float = 10.0

    @property
    def host_key_name(self) -> str:
        """How known_hosts spells this host: bracketed with its port unless that is 22."""
        return self.address if self.port == 22 else f"[{self.address}]:{self.port}"  # noqa: PLR2004 - the SSH port

    @property
    def ssh_command(self) -> str:
        """The plain ssh call to this host, to show to people."""
        jump = f"-J {self.jump.user}@{self.jump.address}:{self.jump.port} " if self.jump else ""
        key = f"-i {self.key_file} " if self.key_file else ""
        return f"ssh {key}{jump}-p {self.port} {self.user}@{self.address}"
