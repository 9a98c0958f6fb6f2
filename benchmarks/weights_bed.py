"""A bed for the weights benchmarks: a hub in a thread, and the downloader as one process a host, on loopback."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import shutil
import struct
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

from runbook_lib.stages.push import bundle
from runbook_lib.twin.hub import ClientLog, Hub

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from pathlib import Path

NETWORK = f"127.93.{os.getpid() % 250 + 1}"
# of the exchange, the product's own: below the kernel's ports for outgoing connections. One of those may be held for
# a minute by a closed connection of the same host
PORT = 18765
TOKEN = "benchmark-token-of-one-transfer"  # noqa: S105 - of a transfer on loopback


def make_model(folder: Path, shards: int, size: int) -> dict[str, bytes]:
    """Write a model of whole safetensors files, `size` bytes in all; returns the sha256 of every file."""
    folder.mkdir(parents=True)
    weight_map = {}
    for number in range(1, shards + 1):
        data = os.urandom(size // shards)
        tensor, name = f"t{number}", f"model-{number:05d}-of-{shards:05d}.safetensors"
        entry = {tensor: {"dtype": "I8", "shape": [len(data)], "data_offsets": [0, len(data)]}}
        header = json.dumps(entry).encode().ljust(128)
        (folder / name).write_bytes(struct.pack("<Q", 128) + header + data)
        weight_map[tensor] = name
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}), encoding="utf-8")
    (folder / "config.json").write_text('{"model_type": "deepseekv2", "torch_dtype": "bfloat16"}', encoding="utf-8")
    sums = {path.name: hashlib.sha256(path.read_bytes()) for path in sorted(folder.iterdir())}
    files = [
        {"name": name, "size": (folder / name).stat().st_size, "sha256": digest.hexdigest()}
        for name, digest in sums.items()
    ]
    (folder / "manifest.json").write_text(json.dumps({"files": files}), encoding="utf-8")
    return {name: digest.digest() for name, digest in sums.items()}


class CountingHub(Hub):
    """The twin's hub, which also remembers what was sent of each file: (client, file, first byte, bytes)."""

    def __init__(self, folder: Path, knobs: dict[str, Any], repository: Path) -> None:
        super().__init__(folder, knobs, repository)
        self.served: list[tuple[str, str, int, int]] = []

    async def _stream(
        self,
        body: Any,  # noqa: ANN401 - the hub's own, private type
        writer: asyncio.StreamWriter,
        entry: ClientLog,
    ) -> bool:
        mine = ClientLog()
        try:
            return await super()._stream(body, writer, mine)
        finally:
            entry.bytes += mine.bytes
            client = writer.get_extra_info("peername")[0]
            self.served.append((client, body.path.name, body.start, mine.bytes))


class RunningHub:
    """The twin's hub with the model, in a thread of its own."""

    def __init__(self, folder: Path, knobs: dict[str, Any]) -> None:
        self.knobs = knobs
        self.loop = asyncio.new_event_loop()
        self.hub = CountingHub(folder.parent, knobs, folder)
        self.url = ""
        self._folder = folder
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self._thread.start()
        self._run(self.hub.start(f"{NETWORK}.250", 0))
        self.url = f"http://{NETWORK}.250:{self.hub.port}/{folder.name}"

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self.loop).result(30)

    @property
    def sent(self) -> int:
        """Bytes of file bodies that went out."""
        return sum(client.bytes for client in self.hub.clients.values())

    def close(self) -> None:
        """End it."""
        self._run(self.hub.close())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(10)
        self.loop.close()


class HostSide:
    """One host: its folder, and the downloader's process while it runs."""

    def __init__(self, root: Path, number: int, hosts: list[str], port: int) -> None:
        self.root = root / f"host{number}"
        self.number, self.hosts, self.port = number, hosts, port
        self.process: subprocess.Popen[bytes] | None = None
        self.root.mkdir(parents=True, exist_ok=True)
        self.tool = self.root / "weights_tool.py"
        self.tool.write_text(bundle("weights_tool.py"), encoding="utf-8")

    @property
    def weights(self) -> Path:
        """Where the files go."""
        return self.root / "weights"

    @property
    def log(self) -> str:
        """What the downloader has said in all its runs."""
        path = self.root / "log"
        return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""

    def start(self, spec: dict[str, Any], *more: str, owners: list[int] | None = None) -> None:
        """Start the downloader; it goes on where an earlier one was cut."""
        token = self.root / "exchange.token"
        token.write_text(TOKEN, encoding="utf-8")
        argv = [sys.executable, str(self.tool), "fetch", "--spec", json.dumps(spec), "--directory", str(self.weights)]
        argv += ["--state", str(self.root / "state" / "state.json"), "--exchange-token", str(token)]
        argv += [
            "--bind",
            self.hosts[self.number],
            "--from",
            self.hosts[self.number],
            "--hosts",
            ",".join(self.hosts),
            "--port",
            str(self.port),
        ]
        argv += ["--owners", ",".join(map(str, owners if owners is not None else range(len(self.hosts)))), *more]
        with (self.root / "log").open("ab") as log:
            self.process = subprocess.Popen(argv, stdout=log, stderr=subprocess.STDOUT)

    def wait(self, timeout_s: float) -> int:
        """Wait for the downloader's end and return its exit code. Raises TimeoutExpired."""
        assert self.process is not None  # noqa: S101 - start came before
        return self.process.wait(timeout_s)

    def kill(self) -> None:
        """Kill the downloader where it stands."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait(10)

    def wrong(self, sums: dict[str, bytes]) -> list[str]:
        """Return the files that are not what they should be; a link or a file too many is wrong as well."""
        found = {path.name for path in self.weights.iterdir()} if self.weights.is_dir() else set()
        bad = [f"{name}: too many" for name in found - set(sums)]
        for name, digest in sums.items():
            path = self.weights / name
            if path.is_symlink() or not path.is_file():
                bad.append(f"{name}: missing or a link")
            elif hashlib.sha256(path.read_bytes()).digest() != digest:
                bad.append(f"{name}: other bytes")
        return bad

    def clear(self) -> None:
        """Remove what came."""
        shutil.rmtree(self.root, ignore_errors=True)
