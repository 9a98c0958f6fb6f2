"""https of the emulated service: by the certificates of config.json's keys, and checked by the CA that params name."""

from __future__ import annotations

import asyncio
import datetime as dt
import ipaddress
import json
import os
import subprocess
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from runbook_lib.errors import UsageError
from runbook_lib.params import load_params
from runbook_lib.runs.measure import level_spec
from runbook_lib.stages.push import source
from runbook_lib.stages.service import ready_section
from runbook_lib.twin.daemon_checks import StartFailure
from runbook_lib.twin.daemon_tls import tls_contexts
from runbook_lib.twin.service_http import BUSINESS, MANAGEMENT, METRICS, Service
from tests.twin.test_service_http import ADDRESS, config

if TYPE_CHECKING:
    from pathlib import Path

KEYS = {"tlsCaPath": "ca", "tlsCaFile": ["ca.pem"], "tlsCert": "server.pem", "tlsPk": "server.key.pem"}


def make_certificates(folder: Path) -> None:
    """Write ca/ca.pem, and server.pem with its key for the address of the tests."""
    (folder / "ca").mkdir(parents=True)
    keys = [ec.generate_private_key(ec.SECP256R1()) for _ in range(2)]
    names = [x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)]) for name in (folder.name, "server")]
    now = dt.datetime.now(dt.UTC)
    for place, name, key, authority in (("ca/ca.pem", 0, 0, True), ("server.pem", 1, 1, False)):
        address = x509.IPAddress(ipaddress.ip_address(ADDRESS))
        made = (
            x509.CertificateBuilder(names[0], names[name], keys[key].public_key(), x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(days=1000))
            .not_valid_after(now + dt.timedelta(days=1000))
            .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName([address]), critical=False)
            .sign(keys[0], hashes.SHA256())
        )
        (folder / place).write_bytes(made.public_bytes(serialization.Encoding.PEM))
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / "server.key.pem").write_bytes(keys[1].private_bytes(*form))


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the certificates of two authorities, ours and other."""
    folder = tmp_path_factory.mktemp("pki")
    for name in ("ours", "other"):
        make_certificates(folder / name)
    return folder


def contexts(folder: Path, **keys: Any) -> Any:
    return tls_contexts({"httpsEnabled": True, **KEYS, **keys}, lambda path: folder / path)


def test_every_key_must_name_a_file_and_the_key_must_fit(pki: Path, tmp_path: Path) -> None:
    """A plane with keys of its own needs files of its own; the words are those of the daemon without certificates."""
    assert contexts(pki, httpsEnabled=False) == {}
    assert set(contexts(pki / "ours")) == {BUSINESS, MANAGEMENT, METRICS}
    (pki / "ours/metrics.pem").write_bytes((pki / "ours/server.pem").read_bytes())
    own = contexts(pki / "ours", metricsTlsCert="metrics.pem", metricsTlsPk="server.key.pem")
    assert own[METRICS] is not own[BUSINESS]
    (tmp_path / "text.pem").write_text("no certificate", encoding="utf-8")
    for keys in (
        {"metricsTlsCert": "none.pem", "metricsTlsPk": "server.key.pem"},
        {"tlsCaFile": ["none.pem"]},
        {"tlsPk": ""},
        {"tlsPk": "../other/server.key.pem"},
        {"tlsCert": str(tmp_path / "text.pem")},
    ):
        with pytest.raises(StartFailure, match="Failed to check the tls certificate files"):
            contexts(pki / "ours", **keys)


@pytest.mark.parametrize(
    ("authority", "status", "error"),
    [("ours", 200, ""), ("", 200, ""), ("other", 0, "CERTIFICATE_VERIFY_FAILED")],
)
def test_the_ready_check_verifies_by_the_ca(pki: Path, authority: str, status: int, error: str) -> None:
    """The CA of the params is the one that counts; without one nothing is verified, and a plain request fails."""
    environment = dict(os.environ)
    if authority:
        environment["RUNBOOK_CA"] = (pki / authority / "ca/ca.pem").read_text(encoding="utf-8")

    async def ask(service: Service, scheme: str) -> dict[str, Any]:
        url = f"{scheme}://{ADDRESS}:{service.ports[0]}/v2/health/ready"
        argv = (sys.executable, "-c", source("http_call.py"), "GET", url, "5")
        process = await asyncio.create_subprocess_exec(*argv, stdout=subprocess.PIPE, env=environment)
        said, _ = await process.communicate()
        return dict(json.loads(said))

    async def work() -> None:
        service = Service(replace(config(), tls=contexts(pki / "ours")))
        await service.start()
        try:
            answer = await ask(service, "https")
            assert answer["status"] == status
            assert error in answer["error"]
            assert (await ask(service, "http"))["status"] == 0
        finally:
            await service.close()

    asyncio.run(work())


def test_params_name_the_ca_for_the_checks_and_the_load(pki: Path) -> None:
    """The probe carries the CA, the load generator its path; a CA that cannot be read stops both before a host does."""
    overrides = {"service.https": True, "service.ca_file": str(pki / "ours/ca/ca.pem")}
    params = load_params("params/twin-2x8-direct.yaml", overrides)
    argv = ready_section(params).argv
    assert argv[:2] == ("env", f"RUNBOOK_CA={(pki / 'ours/ca/ca.pem').read_text(encoding='utf-8')}")
    assert argv[-2].startswith("https://")
    spec = level_spec(params, 4)
    assert (spec.url, spec.ca_file) == ("https://127.77.1.1:1025", overrides["service.ca_file"])
    params = load_params("params/twin-2x8-direct.yaml", overrides | {"service.ca_file": str(pki / "none.pem")})
    with pytest.raises(UsageError, match=r"service\.ca_file"):
        ready_section(params)
