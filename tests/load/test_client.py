"""The closed loop against a mock service: counts, classes of errors, times on the right channel."""

from __future__ import annotations

import datetime as dt
import ipaddress
import json
import os
import socket
import ssl
from typing import TYPE_CHECKING, Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from runbook_lib.errors import LoadError, UsageError
from runbook_lib.load.client import Client, Progress
from runbook_lib.load.prompts import Requests
from runbook_lib.load.record import Record
from runbook_lib.load.spec import PointSpec
from runbook_lib.load.worker import measure
from runbook_lib.load.workload import make_workload

if TYPE_CHECKING:
    from pathlib import Path

    from tests.load.conftest import Serve


def spec_for(url: str, **changes: Any) -> PointSpec:
    """Return a small point that a busy test machine cannot fail by its own lateness."""
    return PointSpec(
        **{
            "url": url, "model": "m", "concurrency": 3, "requests": 6, "input_tokens": 32, "output_tokens": 5,
            "timeout_s": 20.0, "max_lateness_ms": 1e6, "min_delivered": 0.01, **changes,
        }
    )  # fmt: skip


def test_counts_and_times_of_a_good_service(serve: Serve) -> None:
    """Exact counts; times within generous bounds."""
    mock = serve(ttft_s=0.05, itl_s=0.01)
    point = measure(spec_for(mock.url, warmup_requests=3, warmup_output_tokens=2))
    assert point.ok, point.reason
    assert (point.requests, point.errors, point.succeeded) == (6, {}, 6)
    assert point.finish_reasons == {"length": 6}
    assert (point.output_tokens, point.output_tokens_estimated) == (5.0, False)
    assert (point.input_tokens, point.input_tokens_estimated) == (33.0, False)
    assert point.ttft_ms is not None
    assert point.tpot_ms is not None
    assert 50 <= point.ttft_ms.p50 < 1000
    assert 10 <= point.tpot_ms.p50 < 500
    assert [body["max_tokens"] for body in mock.bodies] == [2] * 3 + [5] * 6
    assert mock.connections == 3, "connections are kept alive from warm-up on"
    assert len(set(mock.prompts)) == 9
    assert all(body["stream_options"] == {"include_usage": True} for body in mock.bodies)


def test_kernel_time_stamps_are_used_and_said(serve: Serve) -> None:
    """Every read had the kernel's time."""
    point = measure(spec_for(serve().url))
    assert point.clock == "kernel"
    assert point.client_lateness_ms is not None


def test_without_kernel_stamps_the_loop_clock_is_said(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fallback measures too, and is named."""
    monkeypatch.setattr("runbook_lib.load.sockets.SO_TIMESTAMPNS", 9999)
    point = measure(spec_for(serve(ttft_s=0.05).url))
    assert point.clock == "loop"
    assert point.succeeded == 6
    assert point.ttft_ms is not None
    assert point.ttft_ms.p50 >= 50
    assert point.client_lateness_ms is not None


@pytest.mark.parametrize(("gap_ms", "nap_ms"), [(8, 2.0), (50, 12.5), (0, 1.0)])
def test_the_nap_is_a_quarter_of_the_time_between_two_tokens(gap_ms: int, nap_ms: float) -> None:
    """However long the first one took: two tokens in one read would have one stamp. Short while nobody knows."""
    record = Record(0, start_ns=1)
    record.events.extend(4_000_000_000 + gap_ms * 1_000_000 * number for number in range(5 if gap_ms else 1))
    with Client(spec_for("http://127.0.0.1:1", concurrency=64, requests=64)) as client:
        client._lateness.append(0)
        client._timeouts.append((0, record, client._slots[0]))
        assert client._nap_s() == pytest.approx(nap_ms / 1000)


@pytest.mark.parametrize("channel", ["content", "reasoning_content", "reasoning"])
def test_tokens_of_any_channel_count(serve: Serve, channel: str) -> None:
    """Thinking is output; without usage the chunks are counted, and labelled."""
    mock = serve(channel=channel, manner="no_usage")
    point = measure(spec_for(mock.url))
    assert (point.output_tokens, point.output_tokens_estimated) == (5.0, True)
    assert point.input_tokens_estimated
    assert not point.errors


@pytest.mark.parametrize("manner", ["burst", "cut_event", "crlf", "close"])
def test_events_are_counted_however_they_arrive(serve: Serve, manner: str) -> None:
    """Several per write, cut in the middle, other line ends, no keep-alive."""
    mock = serve(manner=manner)
    spec = spec_for(mock.url)
    with Client(spec) as client:
        client.open()
        work = make_workload(spec, 1)
        records = client.run(Requests(spec, work, nonce=1), work).records
    assert [record.error for record in records] == [""] * 6
    assert [len(record.events) for record in records] == [5] * 6
    assert mock.connections == (6 if manner == "close" else 3)


@pytest.mark.parametrize(
    ("manner", "error", "detail"),
    [
        ("http_500", "http_500", "out of cards"),
        ("cut", "cut", "closed after 2 token events"),
        ("no_end", "cut", "without finish_reason"),
        ("malformed", "malformed", "no JSON"),
        ("json", "malformed", "no event stream"),
        ("no_http", "malformed", "no valid HTTP"),
        ("empty", "empty", "without a token"),
        ("stream_error", "stream_error", "engine died"),
    ],
)
def test_failures_are_classified(serve: Serve, manner: str, error: str, detail: str) -> None:
    """Each kind has its own name, and evidence."""
    mock = serve(manner=manner)
    point = measure(spec_for(mock.url))
    assert point.errors == {error: 6}
    assert detail in point.error_samples[error]
    assert not point.ok
    assert point.ttft_ms is None
    assert "no request succeeded" in point.reason
    assert len(mock.bodies) == 6


def test_one_failure_spoils_the_point_but_not_the_latencies(serve: Serve) -> None:
    """Failed requests stay out of the numbers."""
    point = measure(spec_for(serve(manner="http_500", every=3).url))
    assert (point.errors, point.succeeded) == ({"http_500": 2}, 4)
    assert not point.ok
    assert "2 of 6 requests failed" in point.reason
    assert point.output_tokens == 5.0


def test_a_service_that_never_answers_times_out(serve: Serve) -> None:
    """Both waves."""
    point = measure(spec_for(serve(manner="silent").url, concurrency=2, requests=4, timeout_s=0.2))
    assert point.errors == {"timeout": 4}
    assert not point.ok
    assert point.duration_s >= 0.4


def test_a_closed_port_is_refused() -> None:
    """And nothing was in flight."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # bound but not listening
        point = measure(spec_for(f"127.0.0.1:{unused.getsockname()[1]}"))
    assert point.errors == {"refused": 6}
    assert not point.ok
    assert point.mean_in_flight == 0


def test_a_connect_that_is_never_answered_times_out() -> None:
    """A full backlog swallows the connect."""
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        address = full.getsockname()
        fill = [socket.socket() for _ in range(4)]
        for each in fill:
            each.settimeout(0)
            each.connect_ex(address)
        url = f"http://127.0.0.1:{address[1]}"
        point = measure(spec_for(url, concurrency=2, requests=2, connect_timeout_s=0.2))
        for each in fill:
            each.close()
    assert point.errors == {"timeout": 2}
    assert "no connection" in point.error_samples["timeout"]


def test_a_failed_warm_up_ends_the_point(serve: Serve) -> None:
    """The service is not loaded any further."""
    mock = serve(manner="http_500")
    point = measure(spec_for(mock.url, warmup_requests=3))
    assert (point.requests, point.warmup_errors) == (0, {"http_500": 3})
    assert not point.ok
    assert "warm-up failed: 3 x http_500 (out of cards)" in point.reason
    assert len(mock.bodies) == 3


def test_a_queueing_server_is_seen_in_ttft_not_in_delivered(serve: Serve) -> None:
    """The client keeps six in flight; the server's queue shows in TTFT."""
    free = measure(spec_for(serve(ttft_s=0.03).url, concurrency=6, requests=24, min_delivered=0.5))
    mock = serve(ttft_s=0.03, max_running=2)
    queued = measure(spec_for(mock.url, concurrency=6, requests=24, min_delivered=0.5))
    assert mock.most_running == 2
    assert queued.ok, queued.reason
    assert queued.delivered_basis == "steady"
    assert 0.7 * 6 < queued.delivered <= 6.0001
    assert queued.mean_in_flight <= queued.delivered
    assert queued.ttft_ms is not None
    assert free.ttft_ms is not None
    assert free.ttft_ms.p50 >= 30
    assert queued.ttft_ms.p50 >= 60


def test_progress_and_raw_records(serve: Serve, tmp_path: Path) -> None:
    """One line per request, with all its times."""
    raw = tmp_path / "raw.jsonl"
    seen: list[Progress] = []
    measure(spec_for(serve().url, raw_file=str(raw)), on_progress=seen.append)
    lines = [json.loads(line) for line in raw.read_text(encoding="utf-8").splitlines()]
    assert [line["index"] for line in lines] == list(range(6))
    assert all(len(line["events_ms"]) == 5 for line in lines)
    assert seen
    assert all(progress.total == 6 for progress in seen)


def test_the_api_key_is_sent_and_not_shown(serve: Serve) -> None:
    """It goes to the service only."""
    mock = serve()
    spec = spec_for(mock.url, api_key="k-1234", extra={"temperature": 0})
    measure(spec)
    assert "Authorization: Bearer k-1234" in mock.heads[0]
    assert mock.bodies[0]["temperature"] == 0
    assert "k-1234" not in repr(spec)


def test_the_load_stops_when_its_caller_is_gone(serve: Serve) -> None:
    """The closed pipe is noticed in the loop."""
    read, write = os.pipe()
    os.close(write)
    try:
        with pytest.raises(LoadError, match="gone"):
            measure(spec_for(serve(manner="silent").url), lifeline=read)
    finally:
        os.close(read)


def test_an_unknown_host_is_a_clear_error() -> None:
    """With the next command."""
    with pytest.raises(LoadError, match="cannot be resolved") as caught:
        measure(spec_for("http://no-such-host.invalid"))
    assert "getent" in caught.value.next_command


def test_raw_records_that_cannot_be_written_stop_before_the_load(serve: Serve, tmp_path: Path) -> None:
    """A long load must not be lost at its end."""
    mock = serve()
    with pytest.raises(LoadError, match="cannot be written"):
        measure(spec_for(mock.url, raw_file=str(tmp_path / "missing" / "raw.jsonl")))
    assert not mock.bodies


@pytest.mark.parametrize(
    "change", [{"requests": 2}, {"concurrency": 0}, {"output_tokens": 0}, {"timeout_s": 0}, {"input_tokens": 1}]
)
def test_points_that_cannot_be_measured_are_refused(change: dict[str, Any]) -> None:
    """Before anything is opened."""
    with pytest.raises(UsageError):
        spec_for("http://127.0.0.1", **change)


def _certificate(folder: Path) -> tuple[str, ssl.SSLContext]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "mock")])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    path, key_path = folder / "ca.pem", folder / "key.pem"
    path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    key_path.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path, key_path)
    return str(path), context


def test_https_with_kernel_stamps(serve: Serve, tmp_path: Path) -> None:
    """The stamps are those of the encrypted reads."""
    ca_file, context = _certificate(tmp_path)
    mock = serve(tls=context, ttft_s=0.05)
    point = measure(spec_for(mock.url, ca_file=ca_file))
    assert point.ok, point.reason
    assert (point.succeeded, point.output_tokens, point.clock) == (6, 5.0, "kernel")
    assert point.ttft_ms is not None
    assert point.ttft_ms.p50 >= 50
    assert mock.connections == 3


def test_an_untrusted_certificate_is_a_clear_error(serve: Serve, tmp_path: Path) -> None:
    """Nothing is sent."""
    _, context = _certificate(tmp_path)
    with pytest.raises(LoadError, match="not trusted"):
        measure(spec_for(serve(tls=context).url))
