"""Signatures in the format of OpenSSH (SSHSIG), as `ssh-keygen -Y sign` writes and `ssh-keygen -Y verify` reads them.

A signature has exactly one spelling here: whatever is added to it, or spelled otherwise, is no signature. So no byte
of the signature file can be changed unnoticed. Keys are Ed25519 or RSA; ECDSA is left out because a stranger can turn
one of its signatures into another valid one.
"""

from __future__ import annotations

import base64
import hashlib
import shutil
import struct
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey

from runbook_lib.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path

NAMESPACE = "ascend-runbook-run"  # a signature made for git or for a file is none for a run

_MAGIC = b"SSHSIG"
_VERSION = 1
_BEGIN, _END = "-----BEGIN SSH SIGNATURE-----\n", "-----END SSH SIGNATURE-----\n"
_LINE_CHARACTERS = 70
_HASHES = {"sha256": hashlib.sha256, "sha512": hashlib.sha512}
_RSA_HASHES: dict[str, hashes.HashAlgorithm] = {"rsa-sha2-256": hashes.SHA256(), "rsa-sha2-512": hashes.SHA512()}
_RSA_MIN_BITS = 2048
_KEYGEN_TIMEOUT_S = 120.0  # a person may have to type a passphrase
_OTHERS_MAY_READ = 0o077


class SignatureProblem(ValueError):  # noqa: N818 - what is wrong with it is told, none is a crash
    """A signature that cannot be read, or does not fit what it is beside."""


@dataclass(frozen=True, slots=True)
class PublicKey:
    """A public key; `blob` is its binary form, the one that SSH compares."""

    blob: bytes

    @property
    def kind(self) -> str:
        """The algorithm's name, like ssh-ed25519."""
        return _string(self.blob)[0].decode("ascii", "replace")

    @property
    def fingerprint(self) -> str:
        """The sha256 of the key, spelled as `ssh-keygen -l` does."""
        return "SHA256:" + base64.b64encode(hashlib.sha256(self.blob).digest()).decode().rstrip("=")

    @property
    def line(self) -> str:
        """The key as it stands in a .pub file."""
        return f"{self.kind} {base64.b64encode(self.blob).decode()}"


def sign(message: bytes, key_file: Path) -> bytes:
    """Return the signature of a message by a private key in a file; one with a passphrase is left to ssh-keygen.

    Raises UsageError when the key cannot be used.
    """
    try:
        content = key_file.read_bytes()
        mode = key_file.stat().st_mode
    except OSError as error:
        raise UsageError(
            f"the signing key {key_file} cannot be read: {error.strerror}",
            next_command=f"ssh-keygen -t ed25519 -f {key_file}",
        ) from error
    if mode & _OTHERS_MAY_READ:
        raise UsageError(f"others may read the signing key {key_file}", next_command=f"chmod 600 {key_file}")
    try:
        key = serialization.load_ssh_private_key(content, password=None)
    except (ValueError, TypeError):  # a passphrase, a public key whose private half an agent holds, a hardware key
        return _sign_with_keygen(message, key_file)
    blob = base64.b64decode(
        key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH).split()[1]
    )
    to_sign = _to_sign(message, "sha512")
    if isinstance(key, Ed25519PrivateKey):
        made = _packed(b"ssh-ed25519") + _packed(key.sign(to_sign))
    elif isinstance(key, RSAPrivateKey):
        made = _packed(b"rsa-sha2-512") + _packed(key.sign(to_sign, padding.PKCS1v15(), hashes.SHA512()))
    else:
        raise UsageError(f"{key_file} is a {PublicKey(blob).kind} key; right would be ssh-ed25519 or ssh-rsa")
    return _armoured(blob, "sha512", made)


def _sign_with_keygen(message: bytes, key_file: Path) -> bytes:
    program = shutil.which("ssh-keygen")
    if program is None:
        raise UsageError(f"{key_file} is no OpenSSH private key without passphrase, and there is no ssh-keygen to ask")
    try:
        done = subprocess.run(
            [program, "-Y", "sign", "-f", str(key_file), "-n", NAMESPACE],
            input=message,
            capture_output=True,
            timeout=_KEYGEN_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise UsageError(f"ssh-keygen did not sign within {_KEYGEN_TIMEOUT_S:.0f} s") from None
    if done.returncode != 0:
        said = done.stderr.decode("utf-8", "replace").strip()
        raise UsageError(f"ssh-keygen cannot sign with {key_file}: {said}", next_command=f"ssh-keygen -l -f {key_file}")
    check(message, done.stdout)
    return done.stdout


def check(message: bytes, signature: bytes) -> PublicKey:
    """Return the key that made this signature of this message; whether it is trusted is another question.

    Raises SignatureProblem.
    """
    blob, algorithm, made = _read(signature)
    key = PublicKey(blob)
    scheme, rest = _string(made)
    value, rest = _string(rest)
    if rest:
        raise SignatureProblem("it has more than one signature in it")
    try:
        public = serialization.load_ssh_public_key(key.line.encode())
    except Exception as error:  # whatever the library says about the key, it is none for us
        raise SignatureProblem(f"its {key.kind} key cannot be read") from error
    to_sign, name = _to_sign(message, algorithm), scheme.decode("ascii", "replace")
    try:
        if isinstance(public, Ed25519PublicKey) and name == "ssh-ed25519":
            public.verify(value, to_sign)
        elif isinstance(public, RSAPublicKey) and name in _RSA_HASHES and public.key_size >= _RSA_MIN_BITS:
            public.verify(value, to_sign, padding.PKCS1v15(), _RSA_HASHES[name])
        else:
            raise SignatureProblem(f"it was made by a {key.kind} key as {name}; right would be ssh-ed25519 or ssh-rsa")
    except InvalidSignature:
        raise SignatureProblem(f"the key {key.fingerprint} did not sign this content") from None
    return key


def _to_sign(message: bytes, algorithm: str) -> bytes:
    digest = _HASHES[algorithm](message).digest()
    return _MAGIC + _packed(NAMESPACE.encode()) + _packed(b"") + _packed(algorithm.encode()) + _packed(digest)


def _armoured(blob: bytes, algorithm: str, made: bytes) -> bytes:
    body = _MAGIC + struct.pack(">I", _VERSION) + _packed(blob) + _packed(NAMESPACE.encode()) + _packed(b"")
    text = base64.b64encode(body + _packed(algorithm.encode()) + _packed(made)).decode()
    lines = [text[at : at + _LINE_CHARACTERS] for at in range(0, len(text), _LINE_CHARACTERS)]
    return (_BEGIN + "\n".join(lines) + "\n" + _END).encode()


def _read(signature: bytes) -> tuple[bytes, str, bytes]:
    """Return public key, name of the hash, and the signature proper. Raises SignatureProblem."""
    text = signature.decode("ascii", "replace")
    if not text.startswith(_BEGIN) or not text.endswith(_END):
        raise SignatureProblem("it is no SSH signature")
    try:
        body = base64.b64decode("".join(text[len(_BEGIN) : -len(_END)].split("\n")), validate=True)
    except ValueError as error:
        raise SignatureProblem("it is no base64") from error
    head = _MAGIC + struct.pack(">I", _VERSION)
    if not body.startswith(head):
        raise SignatureProblem("it is no SSH signature of version 1")
    blob, rest = _string(body[len(head) :])
    namespace, rest = _string(rest)
    reserved, rest = _string(rest)
    algorithm, rest = _string(rest)
    made, rest = _string(rest)
    if namespace != NAMESPACE.encode():
        raise SignatureProblem(f"it was made for {namespace.decode('ascii', 'replace')!r}, not for {NAMESPACE!r}")
    name = algorithm.decode("ascii", "replace")
    if name not in _HASHES:
        raise SignatureProblem(f"its hash {name!r} is not known")
    if reserved or rest or _armoured(blob, name, made) != signature:
        raise SignatureProblem("it is not spelled as ssh-keygen writes")
    return blob, name, made


def _packed(value: bytes) -> bytes:
    return struct.pack(">I", len(value)) + value


def _string(value: bytes) -> tuple[bytes, bytes]:
    """Return the first length-prefixed string, and what follows it. Raises SignatureProblem."""
    size = int.from_bytes(value[:4], "big")
    if len(value) < 4 + size:
        raise SignatureProblem("it ends too early")
    return value[4 : 4 + size], value[4 + size :]
