"""What is derived from params: peers, gateways, paths on hosts; and secrets that stay references."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from runbook_lib.errors import UsageError
from runbook_lib.model import Risk, to_json
from runbook_lib.params import HostPaths, Params, load_params
from runbook_lib.params.secrets import SecretValue, resolve

ROOT = Path(__file__).parents[2]


def shipped(name: str, **overrides: object) -> Params:
    """Return one of the shipped clusters; `overrides` with __ for dots."""
    return load_params(
        ROOT / "params" / f"{name}.yaml", {key.replace("__", "."): value for key, value in overrides.items()}
    )


def test_direct_pair_derives_peer_and_gateway() -> None:
    """Each card detects the same card of the other host, and is its own gateway."""
    params = shipped("twin-2x8-direct")
    first, second = params.cluster.hosts
    for mine, other in zip(first.cards, second.cards, strict=True):
        assert params.peer(first, mine) == other.ip
        assert params.peer(second, other) == mine.ip
        assert params.gateway(mine) == mine.ip
        assert params.gateway(other) == other.ip


def test_switch_takes_gateway_from_params() -> None:
    """Behind a switch the gateway is given, and is what the health check detects."""
    params = shipped("twin-4x8-switch")
    for host in params.cluster.hosts:
        for card in host.cards:
            assert params.gateway(card) == card.gateway == params.peer(host, card)


def test_given_values_win() -> None:
    """An explicit peer or gateway is not derived over."""
    overrides = {"cluster.hosts.0.cards.3.peer": "192.168.11.250", "cluster.hosts.0.cards.3.gateway": "192.168.11.1"}
    params = load_params(ROOT / "params" / "twin-2x8-direct.yaml", overrides)
    host = params.cluster.hosts[0]
    assert params.peer(host, host.cards[3]) == "192.168.11.250"
    assert params.gateway(host.cards[3]) == "192.168.11.1"
    assert params.peer(host, host.cards[2]) == params.cluster.hosts[1].cards[2].ip


def test_hosts_are_found_by_name() -> None:
    """A name that is not there is a KeyError, not the first host."""
    params = shipped("twin-4x8-switch")
    assert params.host("node3") is params.cluster.hosts[2]
    with pytest.raises(KeyError):
        params.host("node9")
    assert params.world_size == 32


def test_defaults_follow_the_field() -> None:
    """No destructive change is ever approved by default, and TLS is off on all cards."""
    params = shipped("twin-2x8-direct")
    assert params.policy.yes_approves == [Risk.REVERSIBLE, Risk.DISRUPTIVE]
    assert params.cluster.tls == 0
    assert load_params(ROOT / "params/demo.yaml", {"policy.yes_approves": ["reversible"]}).policy.yes_approves == [
        Risk.REVERSIBLE
    ]


def test_params_do_not_change_after_loading() -> None:
    """What was validated is what is used."""
    params = shipped("twin-2x8-direct")
    with pytest.raises(ValueError, match="frozen"):
        params.cluster.mtu = 9000  # type: ignore[misc]


def test_paths_of_a_real_host() -> None:
    """Every path on a host, from one place."""
    paths = HostPaths.of(shipped("twin-2x8-direct"))
    assert paths.hccn_conf == "/etc/hccn.conf"
    assert paths.hccn_tool == "/usr/local/Ascend/driver/tools/hccn_tool"
    assert paths.driver_version == "/usr/local/Ascend/driver/version.info"
    assert paths.firmware_version == "/usr/local/Ascend/firmware/version.info"
    assert paths.install_info == "/etc/ascend_install.info"
    assert paths.weights == "/data/weights/deepseek-r1-w8a8"
    assert paths.image_tar == "/data/images/mindie.tar"
    assert paths.service == "/var/lib/ascend-runbook/service"
    assert paths.inside(paths.config_json) == paths.config_json


def test_paths_below_a_root() -> None:
    """On a twin of level L0 every path lies below the node's folder, and containers see it without."""
    params = shipped("twin-2x8-direct", paths__work="/opt/work")
    paths = HostPaths.of(params, "/tmp/node1")
    names = ["hccn_conf", "ascend_root", "weights", "image_tar", "work", "hccn_tool", "driver_version"]
    names += ["firmware_version", "install_info", "service", "config_json", "rank_table", "env_file", "start_script"]
    names += ["plog", "mindie_log"]
    for name in names:
        path = getattr(paths, name)
        assert path.startswith("/tmp/node1/"), name
        assert paths.inside(path) == path.removeprefix("/tmp/node1")
    assert paths.rank_table == "/tmp/node1/opt/work/service/rank_table.json"


def test_no_image_tar_is_no_path() -> None:
    """Without a tar there is no path, also below a root."""
    params = shipped("twin-2x8-direct", container__image_tar=None)
    assert HostPaths.of(params, "/tmp/node1").image_tar == ""


def test_secrets_are_resolved_late(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """env:NAME and file:PATH; the params hold the reference only."""
    monkeypatch.setenv("MIRROR_TOKEN", "hunter2")
    params = shipped("twin-2x8-direct", model__weights__source__token="env:MIRROR_TOKEN")
    assert params.model.weights.source.token == "env:MIRROR_TOKEN"
    assert "hunter2" not in f"{params!r} {params} {json.dumps(to_json(params))}"
    assert resolve("env:MIRROR_TOKEN").reveal() == "hunter2"
    (tmp_path / "token").write_text("hunter3\n", encoding="utf-8")
    assert resolve(f"file:{tmp_path}/token").reveal() == "hunter3"


def test_secrets_never_print() -> None:
    """No way of turning one into text shows it."""
    secret = SecretValue("hunter2")
    texts = [repr(secret), str(secret), f"{secret}", f"{[secret]}", f"{secret!a}", "%s" % secret]  # noqa: UP031 - one more way
    assert not [text for text in texts if "hunter2" in text]
    assert not hasattr(secret, "__dict__")
    with pytest.raises(TypeError):
        json.dumps(secret)


def test_missing_secrets_name_the_reference(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message says what is missing and what to do."""
    monkeypatch.delenv("MIRROR_TOKEN", raising=False)
    with pytest.raises(UsageError, match="env:MIRROR_TOKEN is not set") as caught:
        resolve("env:MIRROR_TOKEN")
    assert caught.value.next_command == "export MIRROR_TOKEN=..."
    with pytest.raises(UsageError, match="cannot be read: No such file"):
        resolve(f"file:{tmp_path}/nothing")


@pytest.mark.parametrize("reference", ["hunter2", "env:", "file:", ":x", "", "http://x", "ENV:X"])
def test_a_secret_itself_is_refused(reference: str) -> None:
    """A token in the params file is an error, not a token."""
    with pytest.raises(UsageError, match="reference"):
        shipped("twin-2x8-direct", model__weights__source__token=reference)


@pytest.mark.parametrize("token", [48151623, ["s48151623"], {"s48151623": 1}, "s48151623"])
def test_a_refused_secret_is_not_printed(token: object) -> None:
    """The message about a secret in the wrong place does not repeat it."""
    with pytest.raises(UsageError, match="token") as caught:
        shipped("twin-2x8-direct", model__weights__source__token=token)
    assert "48151623" not in str(caught.value)
