"""Who may sign: allowed_signers files and signing keys, kept outside `outputs/`.

They live in the operator's configuration folder, $XDG_CONFIG_HOME/ascend-runbook (~/.config/ascend-runbook): a file
for all clusters, and one in a folder of the cluster's name for that cluster alone. What lies beside the record could
be replaced together with it, so a file inside `outputs/` is refused.
"""

from __future__ import annotations

import base64
import os
import shlex
import stat
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from runbook_lib.errors import UsageError
from runbook_lib.runs.signatures import NAMESPACE, PublicKey

ALLOWED = "allowed_signers"
KEY = "signing_key"
KEY_VARIABLE = "RUNBOOK_SIGNING_KEY"
_KEY_KINDS = ("ssh-ed25519", "ssh-rsa")


@dataclass(frozen=True, slots=True)
class Trust:
    """The keys whose signature counts, with their owners' names, and the files that say so."""

    names: dict[bytes, str]
    files: tuple[Path, ...] = ()

    def who(self, key: PublicKey) -> str:
        """Return the owner's name, "" for a stranger."""
        return self.names.get(key.blob, "")


def config_folder() -> Path:
    """Return the operator's configuration folder."""
    base = os.environ.get("XDG_CONFIG_HOME") or "~/.config"
    return Path(base).expanduser() / "ascend-runbook"


def default_files(cluster: str) -> list[Path]:
    """Return the allowed_signers files that count for a cluster when none is named; they need not exist."""
    return [config_folder() / cluster / ALLOWED, config_folder() / ALLOWED]


def signing_key(cluster: str) -> Path | None:
    """Return the configured signing key: $RUNBOOK_SIGNING_KEY, the cluster's own, or the operator's."""
    if given := os.environ.get(KEY_VARIABLE):
        return Path(given).expanduser()
    candidates = (config_folder() / cluster / KEY, config_folder() / KEY)
    return next((path for path in candidates if path.is_file()), None)


def trust(outputs: Path, cluster: str, given: Path | None = None) -> Trust:
    """Read who may sign for a cluster: the given file, else the default ones that exist.

    Raises UsageError for a given file that is missing, and for any that lies inside `outputs` or that everybody on
    this machine may write.
    """
    if given is not None and not given.is_file():
        raise UsageError(f"{given} is not there", next_command=f"ls -l {given.parent}")
    files = [given] if given is not None else [path for path in default_files(cluster) if path.is_file()]
    names: dict[bytes, str] = {}
    for path in files:
        _refuse_unsafe(path, outputs)
        for line in path.read_text(encoding="utf-8").splitlines():
            found = _signer(line)
            if found is not None:
                names.setdefault(found[1], found[0])
    return Trust(names, tuple(files))


def _refuse_unsafe(path: Path, outputs: Path) -> None:
    if path.resolve().is_relative_to(outputs.resolve()):
        raise UsageError(
            f"{path} lies inside {outputs}: who can change the record could change it too",
            next_command=f"mv {path} {config_folder() / ALLOWED}   # after reading it",
        )
    if path.stat().st_mode & stat.S_IWOTH:
        raise UsageError(f"everybody may write {path}", next_command=f"chmod o-w {path}")


def _signer(line: str) -> tuple[str, bytes] | None:
    """Return name and key of one line of allowed_signers; None for a comment, or for what we do not understand.

    Of the options only `namespaces` is understood. A line with another one (a certificate authority, a period) is
    passed over, so that it never trusts more than its author meant.
    """
    try:
        words = shlex.split(line, comments=True)
    except ValueError:
        return None
    place = next((at for at, word in enumerate(words) if word in _KEY_KINDS), 0)
    if place == 0 or place + 1 >= len(words):
        return None
    if place > 1 and not _for_runs(words[1:place]):
        return None
    try:
        blob = base64.b64decode(words[place + 1], validate=True)
    except ValueError:
        return None
    return words[0], blob


def _for_runs(options: list[str]) -> bool:
    if len(options) != 1 or not options[0].startswith("namespaces="):
        return False
    return NAMESPACE in options[0].removeprefix("namespaces=").split(",")


def make_key(cluster: str, owner: str) -> Path:
    """Return the signing key of one cluster, made and trusted for that cluster alone if there is none yet.

    For rehearsals: who signs for real clusters makes a key of their own, with a passphrase. Raises UsageError.
    """
    folder = config_folder() / cluster
    key = folder / KEY
    if key.is_file():
        return key
    made = Ed25519PrivateKey.generate()
    private = made.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    )
    public = made.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with (folder / ALLOWED).open("a", encoding="utf-8") as file:
            file.write(f'{owner} namespaces="{NAMESPACE}" {public.decode()}\n')
        handle = os.open(key, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "wb") as file_of_key:
            file_of_key.write(private)
    except OSError as error:
        raise UsageError(f"no signing key can be made in {folder}: {error.strerror}") from error
    return key
