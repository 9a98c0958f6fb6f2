"""The emulated hub over real HTTP, and the repository that it serves."""

from __future__ import annotations

import asyncio
import hashlib
import json
from typing import TYPE_CHECKING, Any

import pytest

from runbook_lib.twin.hub import Hub
from runbook_lib.twin.weights_repo import build_repository

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

ADDRESS = "127.77.9.250"


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a W8A8 repository of about 2 MB."""
    return build_repository(tmp_path_factory.mktemp("hub") / "r1", weights_format="w8a8", weights_bytes=2_000_000)


def header_of(shard: Path) -> tuple[dict[str, Any], int]:
    """Return a shard's header and the size that the file must have."""
    with shard.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
    ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
    return header, 8 + length + max(ends)


def test_every_shard_is_whole_and_the_index_names_every_tensor(repository: Path) -> None:
    """Every shard is whole and the index names every tensor."""
    index = json.loads((repository / "quant_model_weight_w8a8_dynamic.safetensors.index.json").read_bytes())
    shards = sorted(repository.glob("*.safetensors"))
    assert len(shards) == 6
    found: dict[str, str] = {}
    for shard in shards:
        header, size = header_of(shard)
        assert shard.stat().st_size == size
        assert size - 8 > 0
        found |= {name: shard.name for name in header if name != "__metadata__"}
    assert index["weight_map"] == found
    description = json.loads((repository / "quant_model_description_w8a8_dynamic.json").read_bytes())
    assert set(description) - {"model_quant_type"} == set(found)
    assert "model.layers.60.self_attn.q_a_proj.weight" in found
    assert json.loads((repository / "config.json").read_bytes())["quantize"] == "w8a8_dynamic"


def test_the_manifest_holds_and_a_second_build_gives_the_same_bytes(repository: Path, tmp_path: Path) -> None:
    """The manifest holds and a second build gives the same bytes."""
    manifest = json.loads((repository / "manifest.json").read_bytes())
    assert {entry["name"] for entry in manifest["files"]} | {"manifest.json"} == {f.name for f in repository.iterdir()}
    for entry in manifest["files"]:
        data = (repository / entry["name"]).read_bytes()
        assert (len(data), hashlib.sha256(data).hexdigest()) == (entry["size"], entry["sha256"])
    again = build_repository(tmp_path / "r1", weights_format="w8a8", weights_bytes=2_000_000)
    assert (again / "manifest.json").read_bytes() == (repository / "manifest.json").read_bytes()
    total = sum(entry["size"] for entry in manifest["files"] if entry["name"].endswith(".safetensors"))
    assert 1_500_000 < total < 4_000_000


def test_bf16_has_plain_names_and_no_quantisation(tmp_path: Path) -> None:
    """BF16 has plain names and no quantisation."""
    folder = build_repository(tmp_path / "r1", weights_format="bf16", weights_bytes=1_000_000)
    assert (folder / "model.safetensors.index.json").exists()
    assert not list(folder.glob("quant_model*"))
    assert "quantize" not in json.loads((folder / "config.json").read_bytes())


async def get(port: int, path: str, method: str = "GET", **headers: str) -> tuple[int, dict[str, str], bytes]:
    """Make one request; the body is what came before the connection ended."""
    reader, writer = await asyncio.open_connection(ADDRESS, port)
    fields = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    writer.write(f"{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{fields}\r\n".encode())
    try:
        raw = await reader.read()
    finally:
        writer.close()
        await writer.wait_closed()
    head, _, body = raw.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    return int(first.split()[1]), dict(line.split(": ", 1) for line in lines), body


def serve(folder: Path, scenario: Callable[[Hub], Awaitable[None]], **knobs: Any) -> None:
    """Run a scenario against a hub on a free port."""

    async def main() -> None:
        hub = Hub(folder, knobs)
        await hub.start(ADDRESS, 0)
        try:
            await scenario(hub)
        finally:
            await hub.close()

    asyncio.run(main())


def test_ranges_are_answered_as_http_says(repository: Path) -> None:
    """Ranges are answered as HTTP says."""
    data = (repository / "config.json").read_bytes()
    etag = f'"{hashlib.sha256(data).hexdigest()}"'

    async def scenario(hub: Hub) -> None:
        path = "/r1/config.json"
        status, headers, body = await get(hub.port, path)
        assert (status, body, headers["ETag"]) == (200, data, etag)
        status, headers, body = await get(hub.port, path, Range="bytes=10-")
        assert (status, body) == (206, data[10:])
        assert headers["Content-Range"] == f"bytes 10-{len(data) - 1}/{len(data)}"
        assert (await get(hub.port, path, Range="bytes=5-9"))[2] == data[5:10]
        assert (await get(hub.port, path, Range="bytes=-4"))[2] == data[-4:]
        status, headers, _ = await get(hub.port, path, Range=f"bytes={len(data)}-")
        assert (status, headers["Content-Range"]) == (416, f"bytes */{len(data)}")
        status, headers, body = await get(hub.port, path, method="HEAD")
        assert (status, headers["Content-Length"], body) == (200, str(len(data)), b"")
        for missing in ("/r1/nothing", "/r1/../r1/config.json", "/.r1.recipe.json", "/"):
            assert (await get(hub.port, missing))[0] == 404
        client = next(iter(hub.log().values()))
        assert client["ranges"] == 4
        assert client["bytes"] == 2 * len(data) - 10 + 5 + 4

    serve(repository.parent, scenario)


def test_one_connection_serves_several_requests(repository: Path) -> None:
    """One connection serves several requests."""

    async def scenario(hub: Hub) -> None:
        reader, writer = await asyncio.open_connection(ADDRESS, hub.port)
        for _ in range(2):
            writer.write(b"GET /r1/generation_config.json HTTP/1.1\r\nHost: x\r\n\r\n")
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            length = int(head.partition("Content-Length: ")[2].split("\r\n")[0])
            assert json.loads(await reader.readexactly(length))["eos_token_id"] == 1
        writer.close()
        await writer.wait_closed()

    serve(repository.parent, scenario)


def test_faults_strike_once_and_only_where_they_shall(repository: Path) -> None:
    """Faults strike once and only where they shall."""
    data = (repository / "tokenizer.json").read_bytes()
    path = "/r1/tokenizer.json"

    async def cut(hub: Hub) -> None:
        assert len((await get(hub.port, "/r1/config.json"))[2]) > 100
        assert (await get(hub.port, path))[2] == data[:100]
        assert (await get(hub.port, path))[2] == data

    async def wrong(hub: Hub) -> None:
        body = (await get(hub.port, path))[2]
        assert [i for i, pair in enumerate(zip(body, data, strict=True)) if pair[0] != pair[1]] == [7]
        assert (await get(hub.port, path))[2] == data

    async def slow(hub: Hub) -> None:
        status, headers, _ = await get(hub.port, path)
        assert (status, headers["Retry-After"]) == (429, "2")
        assert (await get(hub.port, path))[0] == 200

    async def no_range(hub: Hub) -> None:
        assert (await get(hub.port, path, Range="bytes=10-"))[0::2] == (200, data)

    serve(repository.parent, cut, cut_after_bytes=100, only="tokenizer.json")
    serve(repository.parent, wrong, wrong_byte_at=7)
    serve(repository.parent, slow, retry_after_s=2)
    serve(repository.parent, no_range, ignore_range=True)
