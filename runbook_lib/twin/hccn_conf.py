"""/etc/hccn.conf as hccn_tool reads and writes it: `key_<card>=value` lines, comments kept."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


class HccnConf:
    """One host's file. A missing file reads as empty. Raises OSError or UnicodeDecodeError when it is unreadable."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self.lines = path.read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            self.lines = []

    def get(self, key: str, card: int) -> str:
        """Return a value, "" when there is none; the last line of a key wins."""
        value = ""
        for line in self.lines:
            name, sign, given = line.partition("=")
            if sign and name.strip() == f"{key}_{card}" and not line.lstrip().startswith("#"):
                value = given.strip()
        return value

    def set(self, key: str, card: int, value: str) -> None:
        """Set a value in place, or remove the line with ""; call `write` after it."""
        name = f"{key}_{card}"
        mine = [index for index, line in enumerate(self.lines) if line.partition("=")[0].strip() == name]
        for index in reversed(mine[1:] if value else mine):
            del self.lines[index]
        if value and mine:
            self.lines[mine[0]] = f"{name}={value}"
        elif value:
            self.lines.append(f"{name}={value}")

    def write(self) -> None:
        """Replace the file; its mode stays."""
        mode = self.path.stat().st_mode & 0o7777 if self.path.exists() else 0o640
        temporary = self.path.with_name(f".{self.path.name}.new")
        temporary.write_text("".join(f"{line}\n" for line in self.lines), encoding="utf-8")
        temporary.chmod(mode)
        temporary.replace(self.path)
