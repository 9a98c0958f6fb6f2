"""SFTP that sees the paths which the node's shell sees."""

from __future__ import annotations

import os
import posixpath
from pathlib import Path
from typing import TYPE_CHECKING

import asyncssh

from runbook_lib.twin.owners import are_real
from runbook_lib.twin.rooted import resolve_in

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from asyncssh.misc import MaybeAwait

    from runbook_lib.twin.node import Node


class NodeSftp(asyncssh.SFTPServer):
    """The SFTP server of one session. At L0 paths are this machine's, as in the shell there."""

    def __init__(self, channel: asyncssh.SSHServerChannel[bytes], node: Node) -> None:
        super().__init__(channel)
        self.node = node
        self.real = node.level == "L0"
        self.root = node.base
        self.home = str(node.files / "root") if self.real else "/root"

    def map_path(self, path: bytes) -> bytes:
        """Return where the client's path is for this process; the last part is not followed if it is a symlink."""
        absolute = posixpath.join(self.home, os.fsdecode(path))
        if self.real:
            return os.fsencode(absolute)
        return os.fsencode(resolve_in(self.root, absolute, follow_last=False))

    def _followed(self, path: bytes) -> bytes:
        absolute = posixpath.join(self.home, os.fsdecode(path))
        return os.fsencode(absolute if self.real else resolve_in(self.root, absolute))

    def reverse_map_path(self, path: bytes) -> bytes:
        """Return the node's name of a path of this process."""
        if self.real:
            return path
        root = os.fsencode(self.root)
        return path[len(root) :] or b"/" if path.startswith(root) else path

    def realpath(self, path: bytes) -> bytes:
        """Return the absolute name, with every symlink followed inside the node."""
        return self.reverse_map_path(self._followed(path))

    def open(self, path: bytes, pflags: int, attrs: asyncssh.SFTPAttrs) -> MaybeAwait[object]:
        """Open the file itself, wherever a symlink leads inside the node."""
        return super().open(self.realpath(path), pflags, attrs)

    def stat(self, path: bytes) -> MaybeAwait[asyncssh.SFTPAttrs | os.stat_result]:
        """Return the attributes of the file itself."""
        return super().stat(self.realpath(path))

    def setstat(self, path: bytes, attrs: asyncssh.SFTPAttrs) -> MaybeAwait[None]:
        """Set the attributes of the file itself."""
        return super().setstat(self.realpath(path), attrs)

    def scandir(self, path: bytes) -> AsyncIterator[asyncssh.SFTPName]:
        """List a folder."""
        return super().scandir(self.realpath(path))

    def readlink(self, path: bytes) -> bytes:
        """Return what the symlink says: a path of the node."""
        return os.fsencode(Path(os.fsdecode(self.map_path(path))).readlink())

    def symlink(self, oldpath: bytes, newpath: bytes) -> None:
        """Make a symlink that says `oldpath`, a path of the node."""
        Path(os.fsdecode(self.map_path(newpath))).symlink_to(os.fsdecode(oldpath))

    async def convert_attrs(self, result: MaybeAwait[asyncssh.SFTPAttrs | os.stat_result]) -> asyncssh.SFTPAttrs:
        """Show the owner as the node sees it: without real owners everything belongs to root."""
        attrs = await super().convert_attrs(result)
        if not are_real(self.node):
            attrs.uid = attrs.gid = 0
        attrs.owner = attrs.group = None
        return attrs

    def format_user(self, uid: int | None) -> str:
        """Return the uid as a number, except root: this machine's user names mean nothing in the node."""
        return "root" if uid == 0 else str(uid)

    def format_group(self, gid: int | None) -> str:
        """Return the gid as a number, except root."""
        return self.format_user(gid)

    def statvfs(self, path: bytes) -> MaybeAwait[asyncssh.SFTPVFSAttrs]:
        """Refuse: the numbers would be this machine's."""
        del path
        raise asyncssh.SFTPOpUnsupported("not shown by the twin")

    def exit(self) -> None:
        """Send an exit status: without one OpenSSH's scp and sftp end with code 1 although all went well."""
        self.channel.exit(0)
