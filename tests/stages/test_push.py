"""The downloader that is pushed to hosts, run for real on loopback addresses against a mirror of our own."""

from __future__ import annotations

import argparse
import contextlib
import functools
import hashlib
import importlib
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from runbook_lib.stages import push

if TYPE_CHECKING:
    from collections.abc import Iterator

PUSH = Path(push.__file__).parent
sys.path.insert(0, str(PUSH))  # the programs import each other as on a host
fetching: Any = importlib.import_module("weights_fetch")
stores: Any = importlib.import_module("weights_store")
tool: Any = importlib.import_module("weights_tool")
exchanging: Any = importlib.import_module("weights_exchange")
sys.path.remove(str(PUSH))
TOKEN = "the-token-of-this-transfer"
NETWORK = f"127.91.{os.getpid() % 250 + 1}"
DEADLINE_S = 40.0


class Mirror:
    """A plain HTTP mirror of the test's own, with switches for what mirrors do wrong.

    ignore_range: always sends the whole file. cut_once, spoil_once: names that once come short, or once with
    other bytes. busy: so many 429 answers first. page: every file is an HTML page. slow_s: pause between pieces.
    """

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files = files
        self.manifest: dict[str, Any] = {
            "files": [
                {"name": name, "size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
                for name, data in files.items()
            ]
        }
        self.sent: Counter[str] = Counter()
        self.ranges: list[tuple[str, str]] = []
        self.ignore_range = False
        self.cut_once: set[str] = set()
        self.spoil_once: set[str] = set()
        self.busy = 0
        self.page = False
        self.slow_s = 0.0
        self.stopped = threading.Event()
        self.server = ThreadingHTTPServer((f"{NETWORK}.250", 0), functools.partial(_MirrorHandler, self))
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    @property
    def url(self) -> str:
        """The address of the model."""
        return f"http://{NETWORK}.250:{self.server.server_address[1]}/model"

    def close(self) -> None:
        """End the server and the transfers that still run."""
        self.stopped.set()
        self.server.shutdown()
        self.server.server_close()


class _MirrorHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.0"

    def __init__(self, mirror: Mirror, *args: Any) -> None:
        self.mirror = mirror
        super().__init__(*args)

    def log_message(self, *_args: object) -> None:
        """Print nothing."""

    def do_GET(self) -> None:
        mirror, name = self.mirror, self.path.removeprefix("/model/")
        if name == "manifest.json":
            self._answer(200, json.dumps(mirror.manifest).encode())
            return
        mirror.ranges.append((name, self.headers.get("Range", "")))
        if mirror.busy > 0:
            mirror.busy -= 1
            self._answer(429, b"", {"Retry-After": "0"})
        elif mirror.page:
            self._answer(200, b"<html>please log in</html>")
        else:
            self._file(name, mirror.files[name])

    def _file(self, name: str, data: bytes) -> None:
        mirror, first = self.mirror, 0
        if self.headers.get("Range") and not mirror.ignore_range:
            first = int(self.headers["Range"].removeprefix("bytes=").rstrip("-"))
        body = data[first:]
        if name in mirror.spoil_once:
            mirror.spoil_once.discard(name)
            body = bytes(len(body))
        size = len(body)
        if name in mirror.cut_once:
            mirror.cut_once.discard(name)
            body = body[: size // 2]
        more = {"Content-Range": f"bytes {first}-{len(data) - 1}/{len(data)}"} if first else {}
        self._answer(206 if first else 200, body, more, size, name)

    def _answer(
        self, status: int, body: bytes, headers: dict[str, str] | None = None, size: int | None = None, name: str = ""
    ) -> None:
        self.send_response(status)
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body) if size is None else size))
        self.end_headers()
        with contextlib.suppress(OSError):
            for start in range(0, len(body), 1 << 18):
                piece = body[start : start + (1 << 18)]
                self.wfile.write(piece)
                self.mirror.sent[name] += len(piece)
                if self.mirror.slow_s and self.mirror.stopped.wait(self.mirror.slow_s):
                    return


def shard(seed: int, size: int) -> bytes:
    """Return a whole safetensors file of that many bytes, with one tensor."""
    data = some_bytes(seed, size - 120)
    header = json.dumps({f"t{seed}": {"dtype": "I8", "shape": [len(data)], "data_offsets": [0, len(data)]}}).encode()
    return struct.pack("<Q", 112) + header.ljust(112) + data


def some_bytes(seed: int, size: int) -> bytes:
    """Return bytes that no other seed gives."""
    return (hashlib.sha256(str(seed).encode()).digest() * (size // 32 + 1))[:size]


FILES = {
    "config.json": b'{"model_type": "deepseekv2"}',
    "model-00001.safetensors": shard(1, 1_500_000),
    "model-00002.safetensors": shard(2, 1_200_000),
    "model-00003.safetensors": shard(3, 700_001),
    "model.safetensors.index.json": json.dumps(
        {"weight_map": {f"t{number}": f"model-0000{number}.safetensors" for number in (1, 2, 3)}}
    ).encode(),
    "sub dir/tokenizer #1.json": some_bytes(4, 9_000),
    "empty.txt": b"",
}


@pytest.fixture
def mirror() -> Iterator[Mirror]:
    """Return a mirror of FILES."""
    with contextlib.closing(Mirror({_quoted(name): data for name, data in FILES.items()})) as made:
        made.manifest["files"] = [
            {"name": name, "size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
            for name, data in FILES.items()
        ]
        yield made


def _quoted(name: str) -> str:
    return name.replace(" ", "%20").replace("#", "%23")


def free_port(address: str) -> int:
    """Return a port of an address where nobody listens."""
    with socket.create_server((address, 0)) as sock:
        port: int = sock.getsockname()[1]
        return port


def command(mirror: Mirror, folder: Path, number: int, hosts: list[str], port: int) -> list[str]:
    """Return the command line of one host, as the weights stage writes it."""
    (folder / "work").mkdir(parents=True, exist_ok=True)
    (folder / "work" / "token").write_text(TOKEN, encoding="utf-8")
    argv = [sys.executable, str(PUSH / "weights_tool.py"), "fetch", "--spec", spec(mirror)]
    argv += ["--directory", str(folder / "weights"), "--state", str(folder / "work" / "state.json")]
    argv += ["--bind", hosts[number], "--port", str(port), "--exchange-token", str(folder / "work" / "token")]
    argv += ["--owners", ",".join(map(str, range(len(hosts)))), "--peer-patience", "5"]
    return [*argv, "--hosts", ",".join(hosts), "--timeout", "10", "--patience", "20"]


def spec(mirror: Mirror) -> str:
    """Return what hub_list.py is told."""
    return json.dumps({"kind": "mirror", "url": mirror.url})


@contextlib.contextmanager
def running(argv: list[str]) -> Iterator[subprocess.Popen[str]]:
    """Run a program; nothing of it outlives the block."""
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def in_process(mirror: Mirror, folder: Path) -> argparse.Namespace:
    """Return the arguments of a cluster of one host, for tool.fetch."""
    return argparse.Namespace(
        spec=spec(mirror),
        token="",
        come_from="",
        exchange_token="",
        owners=[0],
        limit=0.0,
        exchange_limit=0.0,
        peer_patience=5.0,
        directory=str(folder / "weights"),
        state=str(folder / "work" / "state.json"),
        bind=f"{NETWORK}.9",
        port=1,
        hosts=[f"{NETWORK}.9"],
        timeout=10.0,
        patience=5.0,
    )


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Let the tool's pauses pass at once; returns their lengths in s."""
    taken: list[float] = []

    class Event(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            taken.append(timeout or 0.0)
            return self.is_set()

    monkeypatch.setattr(tool, "threading", SimpleNamespace(Event=Event, Lock=threading.Lock))
    return taken


def fetch(arguments: argparse.Namespace) -> None:
    """Do all that the job does."""
    tool.Work(arguments).run()


def check_files(folder: Path) -> None:
    """Every file is there, real, whole, and nothing else is."""
    weights = folder / "weights"
    found = {str(path.relative_to(weights)): path for path in weights.rglob("*") if not path.is_dir()}
    assert set(found) == set(FILES)
    for name, path in found.items():
        assert not path.is_symlink()
        assert path.read_bytes() == FILES[name]
    verified = json.loads((folder / "work" / "state.json").read_text(encoding="utf-8"))["verified"]
    assert {name: each["sha256"] for name, each in verified.items()} == {
        name: hashlib.sha256(data).hexdigest() for name, data in FILES.items()
    }


@pytest.mark.parametrize("count", [2, 3])
def test_hosts_exchange_and_the_source_sends_each_byte_once(mirror: Mirror, tmp_path: Path, count: int) -> None:
    """Every host ends with every file; over the WAN each byte went once per cluster, not once per host."""
    hosts = [f"{NETWORK}.{count * 10 + number}" for number in range(count)]
    port = free_port(hosts[0])
    with contextlib.ExitStack() as stack:
        started = [
            stack.enter_context(running(command(mirror, tmp_path / str(number), number, hosts, port)))
            for number in range(count)
        ]
        said = [process.communicate(timeout=DEADLINE_S)[0] for process in started]
    for number, text in enumerate(said):
        assert started[number].returncode == 0, text
        assert "DONE 7 files" in text
        assert "FROM-PEER" in text
        assert "Traceback" not in text
        check_files(tmp_path / str(number))
    total = sum(map(len, FILES.values()))
    assert f"PROGRESS {total} {total} bytes" in said[0]
    del mirror.sent[""]  # the manifest
    assert dict(mirror.sent) == {_quoted(name): len(data) for name, data in FILES.items() if data}


def test_a_second_run_fetches_nothing(mirror: Mirror, tmp_path: Path) -> None:
    """What is recorded and unchanged is believed: no byte moves."""
    fetch(in_process(mirror, tmp_path))
    check_files(tmp_path)
    mirror.ranges.clear()
    fetch(in_process(mirror, tmp_path))
    assert mirror.ranges == []


def test_resume_after_kill(tmp_path: Path) -> None:
    """After kill -9 the next run asks for the rest only."""
    size = 6 << 20
    with contextlib.closing(Mirror({"big.bin": some_bytes(9, size)})) as mirror:
        mirror.slow_s = 0.05
        argv = command(mirror, tmp_path, 0, [f"{NETWORK}.50"], 1)
        part = tmp_path / "weights" / "big.bin.incomplete"
        with running(argv) as first:
            deadline = time.monotonic() + DEADLINE_S
            while not (part.is_file() and part.stat().st_size >= 1 << 20):
                assert first.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.02)
            first.send_signal(signal.SIGKILL)
            first.wait(timeout=10)
        kept = part.stat().st_size
        assert 0 < kept < size
        mirror.slow_s = 0.0
        with running(argv) as second:
            text = second.communicate(timeout=DEADLINE_S)[0]
        assert second.returncode == 0, text
        assert mirror.ranges == [("big.bin", ""), ("big.bin", f"bytes={kept}-")]
        assert f"PROGRESS {size} {size} bytes" in text
        assert (tmp_path / "weights" / "big.bin").read_bytes() == mirror.files["big.bin"]
        assert not part.exists()


def test_a_link_is_replaced_by_a_real_file(mirror: Mirror, tmp_path: Path) -> None:
    """Links into a cache are not followed in a container; what they point to stays as it is."""
    cache = tmp_path / "cache.bin"
    cache.write_bytes(FILES["model-00001.safetensors"])
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "model-00001.safetensors").symlink_to(cache)
    fetch(in_process(mirror, tmp_path))
    check_files(tmp_path)
    assert cache.read_bytes() == FILES["model-00001.safetensors"]


@pytest.mark.parametrize("name", ["../x", "/etc/x", "//etc/x", "a/../../x", "", ".", "a\nb", "a\0b", 7, None])
def test_hostile_names_are_refused(mirror: Mirror, tmp_path: Path, name: object) -> None:
    """A manifest cannot write outside the directory; nothing of it is fetched."""
    mirror.manifest["files"].append({"name": name, "size": 1, "sha256": "0" * 64})
    with pytest.raises(tool.Refused, match=r"entry that does not hold|no sum|list of files"):
        fetch(in_process(mirror, tmp_path))
    assert mirror.ranges == []
    assert not (tmp_path / "weights").exists()


@pytest.mark.parametrize(
    "entry",
    [{"name": "x", "size": "1", "sha256": "0" * 64}, {"name": "x", "size": -1, "sha256": "0" * 64}, {"name": "x"}, "x"],
)
def test_bad_entries_are_refused(mirror: Mirror, tmp_path: Path, entry: object) -> None:
    """A size or a sum that is none would make every later check void."""
    mirror.manifest["files"].append(entry)
    with pytest.raises(tool.Refused):
        fetch(in_process(mirror, tmp_path))


def test_a_full_disk_is_refused_before_the_first_byte(
    mirror: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However large the home is; the message names both, how much there is and how much is needed."""
    home = _disks(tmp_path, monkeypatch, home_mb=900_000, target_mb=3)
    with pytest.raises(tool.Refused) as refused:
        fetch(in_process(mirror, tmp_path))
    assert f"the file system of {tmp_path / 'weights'} has 0.00 GB free, 0.00 GB are needed" in str(refused.value)
    assert f"({home} has 900.00 GB free, and nothing is put there)" in str(refused.value)
    assert mirror.ranges == []


def test_a_small_home_does_no_harm(mirror: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a home that has no room for one file the download works, and nothing is put there."""
    home = _disks(tmp_path, monkeypatch, home_mb=0, target_mb=9_000)
    fetch(in_process(mirror, tmp_path))
    check_files(tmp_path)
    assert list(home.iterdir()) == []


def _disks(folder: Path, monkeypatch: pytest.MonkeyPatch, *, home_mb: int, target_mb: int) -> Path:
    """Let the home and everything else have so much room; returns the home."""
    home = folder / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))

    def statvfs(path: str) -> SimpleNamespace:
        free = home_mb if path == str(home) else target_mb
        return SimpleNamespace(f_bavail=free, f_frsize=1000_000, f_files=9, f_favail=9)

    monkeypatch.setattr(os, "statvfs", statvfs)
    return home


def test_a_port_that_is_in_use_is_waited_for(mirror: Mirror, tmp_path: Path) -> None:
    """A closed connection may hold the port of the exchange for a minute; the host downloads, and serves later."""
    hosts = [f"{NETWORK}.{number}" for number in (80, 81)]
    port = free_port(hosts[0])
    with contextlib.ExitStack() as stack:
        taken = stack.enter_context(socket.create_server((hosts[0], port)))
        started = [
            stack.enter_context(running(command(mirror, tmp_path / str(number), number, hosts, port)))
            for number in range(2)
        ]
        heard = f"port {port} of {hosts[0]} is in use" in (started[0].stdout.readline() if started[0].stdout else "")
        taken.close()
        said = [process.communicate(timeout=DEADLINE_S)[0] for process in started]
    assert heard, said
    assert [process.returncode for process in started] == [0, 0], said
    for number in range(2):
        check_files(tmp_path / str(number))


def test_a_job_that_is_started_again_knows_who_was_done(mirror: Mirror, tmp_path: Path) -> None:
    """A host is cut as its job ends: the others have left, nobody is waited for. Another transfer knows nothing."""
    hosts = [f"{NETWORK}.{number}" for number in (82, 83)]
    port = free_port(hosts[0])
    argvs = [command(mirror, tmp_path / str(number), number, hosts, port) for number in range(2)]
    with running(argvs[0]) as first, running(argvs[1]) as second:
        said = [process.communicate(timeout=DEADLINE_S)[0] for process in (first, second)]
    assert all("DONE 7 files" in text and "LEFT-ALONE" not in text for text in said)
    token = tmp_path / "0" / "work" / "token"
    token.write_text(TOKEN, encoding="utf-8")
    with running(argvs[0]) as process:
        text = process.communicate(timeout=DEADLINE_S)[0]
    assert process.returncode == 0, text
    assert "LEFT-ALONE" not in text
    token.write_text("another transfer", encoding="utf-8")
    with running([*argvs[0], "--patience", "1"]) as process:
        text = process.communicate(timeout=DEADLINE_S)[0]
    assert "LEFT-ALONE" in text


def _store(mirror: Mirror, folder: Path) -> Any:
    listing = {"commit": "", "files": mirror.manifest["files"]}
    store = stores.Store(folder / "weights", folder / "work" / "state.json", listing)
    store.scan()
    return store


def test_the_record_is_believed_only_for_unchanged_files(mirror: Mirror, tmp_path: Path) -> None:
    """Same size and mtime: believed without hashing. Otherwise the bytes are hashed."""
    fetch(in_process(mirror, tmp_path))
    path = tmp_path / "weights" / "model-00003.safetensors"
    stat = path.stat()
    path.write_bytes(bytes(stat.st_size))
    assert _store(mirror, tmp_path).missing() == [path.name]
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert _store(mirror, tmp_path).missing() == []
    path.write_bytes(FILES[path.name])
    os.utime(path, ns=(1, 1))
    assert _store(mirror, tmp_path).missing() == []
    path.write_bytes(FILES[path.name] + b"!")
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert _store(mirror, tmp_path).missing() == [path.name]


@pytest.mark.parametrize("text", ["", "[]", "{", '{"verified": 3}', '{"verified": {"config.json": {}}}', "null"])
def test_a_torn_record_means_hashing(mirror: Mirror, tmp_path: Path, text: str) -> None:
    """A record that cannot be read is no reason to fail, and none to believe anything."""
    fetch(in_process(mirror, tmp_path))
    (tmp_path / "work" / "state.json").write_text(text, encoding="utf-8")
    path = tmp_path / "weights" / "config.json"
    path.write_bytes(bytes(path.stat().st_size))
    assert _store(mirror, tmp_path).missing() == ["config.json"]


def test_a_mirror_that_ignores_ranges(mirror: Mirror, tmp_path: Path, pauses: list[float]) -> None:
    """The file starts again from its first byte."""
    mirror.ignore_range = True
    mirror.cut_once = {"model-00001.safetensors"}
    fetch(in_process(mirror, tmp_path))
    check_files(tmp_path)
    assert mirror.sent["model-00001.safetensors"] == 1_500_000 + 750_000
    assert pauses == [0.5]


def test_a_cut_transfer_goes_on_where_it_ended(mirror: Mirror, tmp_path: Path, pauses: list[float]) -> None:
    """A cut costs no byte twice."""
    mirror.cut_once = {"model-00001.safetensors", "model-00002.safetensors"}
    fetch(in_process(mirror, tmp_path))
    check_files(tmp_path)
    assert mirror.sent["model-00001.safetensors"] == 1_500_000
    assert ("model-00001.safetensors", "bytes=750000-") in mirror.ranges
    assert len(pauses) == 2


def test_wrong_bytes_are_thrown_away(
    mirror: Mirror, tmp_path: Path, pauses: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    """A file with another sha256 is never put in place."""
    mirror.spoil_once = {"model-00002.safetensors"}
    fetch(in_process(mirror, tmp_path))
    check_files(tmp_path)
    assert len(pauses) == 1
    assert "RETRY model-00002.safetensors: the bytes received do not have the sum" in capsys.readouterr().out


def test_a_busy_mirror_says_when_to_come_back(mirror: Mirror, tmp_path: Path, pauses: list[float]) -> None:
    """Retry-After is kept to the second."""
    mirror.busy = 3
    fetch(in_process(mirror, tmp_path))
    check_files(tmp_path)
    assert pauses == [0, 0, 0]


def test_an_error_page_is_no_file(mirror: Mirror, tmp_path: Path, pauses: list[float]) -> None:
    """A login page with status 200 ends the work with the file's name, after all tries."""
    mirror.page = True
    with pytest.raises(tool.Refused, match=r"26 bytes are offered, the list says"):
        fetch(in_process(mirror, tmp_path))
    left = [path.name for path in (tmp_path / "weights").rglob("*") if path.is_file()]
    assert left in (["empty.txt"], []), "not even a part"
    assert len(pauses) >= fetching.TRIES_REFUSED - 1


def test_a_mirror_with_other_bytes_for_ever_is_given_up(mirror: Mirror, tmp_path: Path, pauses: list[float]) -> None:
    """Bytes keep coming, and they are wrong each time: no endless download."""
    mirror.files["config.json"] = bytes(len(FILES["config.json"]))
    with pytest.raises(tool.Refused, match=r"config\.json: .*the sum of the list"):
        fetch(in_process(mirror, tmp_path))
    assert len(pauses) == fetching.SPOILED_TRIES - 1


def test_a_failure_is_one_line_and_exit_1(mirror: Mirror, tmp_path: Path) -> None:
    """The job's log ends with what, where, and what would be right."""
    mirror.manifest = {"files": []}
    argv = command(mirror, tmp_path, 0, [f"{NETWORK}.60"], 1)
    with running(argv) as process:
        text = process.communicate(timeout=DEADLINE_S)[0]
    assert process.returncode == 1
    assert text.splitlines()[-1].startswith("ERROR the list of files is empty")
    assert "Traceback" not in text


def test_strangers_get_nothing(mirror: Mirror, tmp_path: Path) -> None:
    """The exchange answers hosts of the cluster that show the token, with verified files only."""
    fetch(in_process(mirror, tmp_path))
    store = _store(mirror, tmp_path)
    here, friend, stranger = (f"{NETWORK}.{last}" for last in (70, 71, 72))
    port = free_port(here)
    secret = tmp_path / "token"
    secret.write_text(TOKEN, encoding="utf-8")
    known, other = exchanging.Token(str(secret)), exchanging.Token(str(tmp_path / "none"))
    work = SimpleNamespace(
        arguments=SimpleNamespace(
            bind=here, port=port, hosts=[here, friend], exchange_limit=0.0, state=str(tmp_path / "work" / "state.json")
        ),
        token=known,
        store=store,
        listing={"files": []},
        coming=lambda: (["later"], ["now"]),
        give_away=lambda: "",
    )
    exchange = exchanging.Exchange(work)
    try:
        ours = exchanging.Peer(here, port, friend, known)
        theirs = exchanging.Peer(here, port, stranger, known)
        without = exchanging.Peer(here, port, friend, other)
        assert ours.have()["have"]["config.json"] == hashlib.sha256(FILES["config.json"]).hexdigest()
        assert _status(ours, "config.json") == 200
        assert _status(ours, "../work/state.json") == 404
        for peer in (theirs, without):
            assert peer.have() is None
            assert peer.listed() is None
            assert _status(peer, "config.json") == 403
            assert not peer.tell_done()
        assert exchange.done == set()
        assert ours.tell_done() == "heard"
        assert exchange.done == {friend}
        exchange.complete = True
        assert ours.tell_done() == "done"
        secret.write_text("another run", encoding="utf-8")
        late = exchanging.Peer(here, port, friend, exchanging.Token(str(secret)))
        assert late.have() is not None, "a job that was attached to reads the new token"
    finally:
        exchange.close()
    assert ours.have() is None
    assert ours.tell_done() == "gone"


def _status(peer: Any, name: str) -> int:
    connection, answer = peer.open(name, {}, 5)
    connection.close()
    return int(answer.status)
