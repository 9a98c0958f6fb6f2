"""The emulated daemon: its checks one by one, and whole starts on a running twin."""

from __future__ import annotations

import json
import os
import time
import urllib.error
import urllib.request
from typing import TYPE_CHECKING, Any

import pytest

from runbook_lib.twin import daemon_checks as checks
from runbook_lib.twin import lifecycle
from runbook_lib.twin.daemon_config import ConfigError, read_config
from runbook_lib.twin.daemon_hccl import connect_timeout_s
from runbook_lib.twin.images import default_config, image_version
from runbook_lib.twin.weights_repo import build_repository
from tests.twin.conftest import Rig, twin_params

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

IMAGE = "mindie:2.0.T3.1-800I-A2-py311-openeuler24.03-lts"
FACTOR = 300


def said(failed: checks.StartFailure) -> str:
    """Return all that a failure says."""
    return "\n".join(line.text for line in failed.lines)


def change(config: dict[str, Any], dotted: str, value: object) -> dict[str, Any]:
    """Set one value of a config."""
    *path, last = dotted.split(".")
    node: Any = config
    for part in path:
        node = node[int(part) if part.isdigit() else part]
    node[last] = value
    return config


SCHEDULE = "BackendConfig.ScheduleConfig"
DEPLOY = "BackendConfig.ModelDeployConfig"


@pytest.mark.parametrize(
    ("dotted", "value", "words"),
    [
        ("ServerConfig.port", 80, "[MIE05E030000] [config] ServerConfig.port [80] is out of range [1024, 65535]."),
        ("ServerConfig.httpsEnabled", "no", "httpsEnabled must be true or false"),
        ("BackendConfig.modelInstanceNumber", 11, "[MIE05E040000]"),
        (f"{SCHEDULE}.maxPrefillTokens", 100, "maxPrefillTokens [100] is out of range [2048, 4194304]."),
        (f"{SCHEDULE}.maxIterTimes", 9999, "maxIterTimes [9999] is out of range [1, 2560]."),
        (f"{SCHEDULE}.maxQueueDelayMicroseconds", 1, "is out of range [500, 1000000]."),
        (f"{DEPLOY}.maxInputTokenLen", True, "maxInputTokenLen must be an integer"),
        ("BackendConfig.npuDeviceIds", [[0, 1, 1, 2]], "npuDeviceID does not allow repetitive element"),
        ("BackendConfig.npuDeviceIds", [[0]], "The size of npuDeviceIds does not equal to worldSize"),
        ("ServerConfig.ipAddress", "0.0.0.0", "ipAddress [0.0.0.0] needs allowAllZeroIpListening."),
    ],
)
def test_a_config_out_of_range_is_refused(dotted: str, value: object, words: str) -> None:
    """A config out of range is refused, and the shipped one is not."""
    read_config(json.dumps(default_config()).encode())
    with pytest.raises(ConfigError, match="config") as failed:
        read_config(json.dumps(change(default_config(), dotted, value)).encode())
    assert words in str(failed.value)


def test_comments_in_the_config_are_no_json() -> None:
    """Comments in the config are no JSON."""
    with pytest.raises(ConfigError, match="Failed to parse config"):
        read_config(b'{"ServerConfig": {} // a comment\n}')


def test_what_older_images_refuse() -> None:
    """Links above 1000 and parallel sizes are for images from 2.0.RC1 on."""
    many = json.dumps(change(default_config(), "ServerConfig.maxLinkNum", 4096)).encode()
    sizes = json.dumps(change(default_config(), f"{DEPLOY}.ModelConfig.0.dp", 2)).encode()
    for config, words in ((many, "maxLinkNum"), (sizes, "dp is not a key")):
        read_config(config, "2.1.RC1")
        with pytest.raises(ConfigError, match=words):
            read_config(config, "2.0.T3.1")


def test_a_container_without_device_driver_or_network_file_is_refused(tmp_path: Path) -> None:
    """Each part that docker run must give is missed in its own words."""
    parts = ["dev/davinci0", "dev/davinci_manager", "dev/devmm_svm", "dev/hisi_hdc", "etc/hccn.conf"]
    parts.append("usr/local/Ascend/driver/version.info")
    for part in parts:
        (tmp_path / part).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / part).write_text("x", encoding="utf-8")

    def place(path: str) -> Path:
        return tmp_path / path.lstrip("/")

    checks.check_devices(place, [0])
    words = ["devId[0]", "-8005", "-8005", "-8005", "Parameter device_ip is invalid", "libascend_hal.so"]
    for part, word in zip(parts, words, strict=True):
        (tmp_path / part).rename(tmp_path / "away")
        with pytest.raises(checks.StartFailure) as failed:
            checks.check_devices(place, [0])
        assert word in said(failed.value)
        (tmp_path / "away").rename(tmp_path / part)


@pytest.fixture
def files(tmp_path: Path) -> checks.Files:
    """Return a view of a machine whose / is tmp_path, with good weights in /w."""
    build_repository(tmp_path / "w", weights_format="w8a8", weights_bytes=1_000_000)
    for path in (tmp_path / "w").iterdir():
        path.chmod(0o640)
    (tmp_path / "w").chmod(0o750)
    return checks.Files(lambda path: tmp_path / path.lstrip("/"), lambda _: (0, 0))


def _open_config(folder: Path) -> None:
    (folder / "config.json").chmod(0o644)


def _truncate(folder: Path) -> None:
    shard = sorted(folder.glob("*.safetensors"))[2]
    os.truncate(shard, shard.stat().st_size - 1)


def _pointer(folder: Path) -> None:
    shard = min(folder.glob("*.safetensors"))
    shard.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", encoding="utf-8")


def _dangling(folder: Path) -> None:
    shard = min(folder.glob("*.safetensors"))
    shard.unlink()
    shard.symlink_to("/root/.cache/openmind/hub/blobs/abc")


def _missing(folder: Path) -> None:
    sorted(folder.glob("*.safetensors"))[5].unlink()


def _model_type(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_bytes())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "deepseek_v3"}), encoding="utf-8")


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (_open_config, "Check Other group permission failed: Current permission is 4, but required no greater than 0."),
        (_open_config, checks.MODEL_FOLLOW_UP),
        (_truncate, "MetadataIncompleteBuffer"),
        (_pointer, "Error while deserializing header: HeaderTooLarge"),
        (_dangling, "No such file or directory"),
        (_missing, "No such file or directory"),
        (_model_type, "MIE05E000003"),
    ],
)
def test_spoilt_weights_are_refused(files: checks.Files, spoil: Callable[[Path], None], words: str) -> None:
    """Spoilt weights are refused in the loader's words; good ones are read."""
    assert checks.check_weights(files, "/w")["model_type"] == "deepseekv2"
    spoil(files.place("/w"))
    with pytest.raises(checks.StartFailure) as failed:
        checks.check_weights(files, "/w")
    assert words in said(failed.value)


def rank_table(network: str, cards: int = 8) -> dict[str, Any]:
    """Return the rank table of the twin."""
    servers = [
        {
            "server_id": f"{network}.{number}",
            "container_ip": f"{network}.{number}",
            "device": [
                {
                    "device_id": str(card),
                    "device_ip": f"192.168.11.{number}0{card}",
                    "rank_id": str(card + cards * (number - 1)),
                }
                for card in range(cards)
            ],
        }
        for number in (1, 2)
    ]
    return {"version": "1.0", "status": "completed", "server_count": "2", "server_list": servers}


@pytest.mark.parametrize(
    ("dotted", "value", "words"),
    [
        ("server_count", "3", "Parameter server_count is 3"),
        ("server_count", 2, "Invalid server_count in ranktable file"),
        ("server_list.1.container_ip", "", "The containerIp in the server node is empty in ranktable file."),
        ("server_list.0.device.3.device_ip", "0.0.0.0", "Parameter device_ip is invalid in ranktable file."),
        ("server_list.0.device.3.device_id", "64", "Parameter device_id is 64, which is out of allow range [0, 63]."),
        ("server_list.0.device.3.rank_id", "5", "[Parse][ClusterInfo]"),
        ("server_list.1.device", [], "The number of devices in every server node"),
        ("server_list.0.container_ip", "10.0.0.9", "MIES_CONTAINER_IP 10.1.1.1 is not found"),
    ],
)
def test_a_wrong_rank_table_is_refused(files: checks.Files, dotted: str, value: object, words: str) -> None:
    """A wrong rank table is refused, and the right one is read."""
    env = {"RANKTABLEFILE": "/rt.json", "MIES_CONTAINER_IP": "10.1.1.1", "WORLD_SIZE": "16"}
    place = files.place("/rt.json")
    place.write_text(json.dumps(rank_table("10.1.1")), encoding="utf-8")
    place.chmod(0o640)
    assert checks.read_rank_table(files, env, "2.0.T3").world_size == 16
    table = rank_table("10.1.1")
    target: Any = table
    *path, last = dotted.split(".")
    for part in path:
        target = target[int(part) if part.isdigit() else part]
    target[last] = value
    place.write_text(json.dumps(table), encoding="utf-8")
    with pytest.raises(checks.StartFailure) as failed:
        checks.read_rank_table(files, env, "2.0.T3")
    assert words in said(failed.value)


def test_the_variable_of_the_rank_table_depends_on_the_version(files: checks.Files) -> None:
    """Images from 2.1 on read RANK_TABLE_FILE only, older ones RANKTABLEFILE only."""
    assert checks.rank_table_variable(image_version(IMAGE)) == "RANKTABLEFILE"
    assert checks.rank_table_variable("2.1.RC1") == "RANK_TABLE_FILE"
    with pytest.raises(checks.StartFailure) as failed:
        checks.read_rank_table(files, {"RANKTABLEFILE": "/rt.json", "MIES_CONTAINER_IP": "10.1.1.1"}, "2.2.RC1")
    assert "set a valid ranktable file path with RANK_TABLE_FILE" in said(failed.value)


def test_a_timeout_out_of_range_is_refused() -> None:
    """HCCL_CONNECT_TIMEOUT is 120 to 7200 s."""
    assert connect_timeout_s({}) == 120
    with pytest.raises(checks.StartFailure) as failed:
        connect_timeout_s({"HCCL_CONNECT_TIMEOUT": "60"})
    assert "[Init][EnvVarParam]" in said(failed.value)


# whole starts


class Cluster:
    """A twin with everything prepared for the service."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        assert rig.params.twin is not None
        self.network = rig.params.twin.network

    def both(self, command: str) -> list[str]:
        """Run a command on both hosts; `$n` is the number of the host and `$o` that of the other."""
        outputs = []
        for number in (1, 2):
            done = self.rig.run(f"node{number}", f"n={number} o={3 - number}; {command}")
            assert done.code == 0, done.err
            outputs.append(done.out)
        return outputs

    def launch(self, number: int, setting: str = "") -> None:
        """Start the daemon of one host in the background."""
        self.rig.run(
            f"node{number}",
            f"rm -f /data/out; docker exec -d box bash -c '{setting} bash /data/start.sh >/data/out 2>&1'",
        )

    def output(self, number: int, word: str, deadline_s: float = 15.0) -> str:
        """Return what the daemon has said when it has said `word`."""
        text = ""
        end = time.monotonic() + deadline_s
        while time.monotonic() < end:
            text = self.rig.run(f"node{number}", "cat /data/out").out
            if word in text:
                return text
            time.sleep(0.1)
        pytest.fail(f"node{number} did not say {word!r} but {text[-2000:]}")

    def get(self, port: int, path: str) -> int:
        """Return the status of a GET on the master."""
        try:
            with urllib.request.urlopen(f"http://{self.network}.1:{port}{path}", timeout=5) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            with error:
                return error.code


START = """for s in ascend-toolkit nnal/atb atb-models mindie mindie/latest/mindie-service; do
    [ "$SKIP" = $s ] || source /usr/local/Ascend/$s/set_env.sh
done
export MIES_CONFIG_JSON_PATH=/data/config.json RANKTABLEFILE=/data/rt.json WORLD_SIZE=16 NPU_MEMORY_FRACTION=0.95
export MINDIE_LOG_TO_STDOUT=1 ASCEND_WORK_PATH=/data/plog MINDIE_LOG_PATH=/data/mlog MIES_SERVICE_MONITOR_MODE=1
export MIES_CONTAINER_IP=$(cat /data/ip) HCCL_CONNECT_TIMEOUT=600
cd /usr/local/Ascend/mindie/latest/mindie-service && ./bin/mindieservice_daemon
echo "code $?"
"""


def service_config(network: str) -> str:
    """Return a config.json for two hosts."""
    config = default_config()
    config["ServerConfig"] |= {"ipAddress": f"{network}.1", "managementIpAddress": f"{network}.1"}
    config["ServerConfig"]["httpsEnabled"] = False
    backend = config["BackendConfig"]
    backend |= {"npuDeviceIds": [list(range(8))], "multiNodesInferEnabled": True, "interNodeTLSEnabled": False}
    model = {"modelName": "deepseek-r1", "modelWeightPath": "/data/w", "worldSize": 8}
    backend["ModelDeployConfig"]["ModelConfig"][0] |= model
    return json.dumps(config)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory, networks: Iterator[str]) -> Iterator[Cluster]:
    """Return a twin with cards, weights, rank table, config and container ready on both hosts."""
    params = twin_params(next(networks), **{"twin.time_factor": FACTOR})
    root = tmp_path_factory.mktemp("twin")
    try:
        level = lifecycle.up(params, root).level
        if level == "L0":
            pytest.skip("whole starts want containers with a view of their own; this machine has no namespaces")
        ready = Cluster(Rig(params, root))
        source = root / "hub/deepseek-r1-w8a8"
        for number in (1, 2):
            target = root / f"nodes/node{number}/files/data/w"
            target.mkdir(mode=0o750)
            for file in source.iterdir():
                (target / file.name).write_bytes(file.read_bytes())
                (target / file.name).chmod(0o640)
        hccn = "/usr/local/Ascend/driver/tools/hccn_tool -i $i"
        ready.both(
            f"cat >/data/config.json <<'X'\n{service_config(ready.network)}\nX\n"
            f"cat >/data/rt.json <<'X'\n{json.dumps(rank_table(ready.network))}\nX\n"
            f"cat >/data/start.sh <<'X'\n{START}X\n"
            f"chmod 640 /data/*.json; echo {ready.network}.$n >/data/ip; "
            f"for i in {{0..7}}; do {hccn} -ip -s address 192.168.11.${{n}}0$i netmask 255.255.255.0; "
            f"{hccn} -gateway -s gateway 192.168.11.${{n}}0$i; {hccn} -netdetect -s address 192.168.11.${{o}}0$i; "
            f"{hccn} -tls -s enable 0; done; docker load -i /data/images/mindie.tar && "
            f"docker run -itd --privileged --net=host --shm-size 2g --name box -v /data:/data "
            f"-v /usr/local/Ascend/driver:/usr/local/Ascend/driver -v /etc/hccn.conf:/etc/hccn.conf {IMAGE} bash"
        )
        yield ready
    finally:
        lifecycle.down(params, root)


def test_both_daemons_come_up_serve_and_notice_a_dead_slave(cluster: Cluster) -> None:
    """Both come up and hold HBM; only the master serves; without the slave it is unhealthy; HBM is given back."""
    for number in (2, 1):
        cluster.launch(number)
    assert "load weights from /data/w: 100%" in cluster.output(1, "Daemon start success!")
    cluster.output(2, "Daemon start success!")
    assert cluster.get(1026, "/v2/health/ready") == 200
    assert cluster.get(1025, "/v1/models") == 200
    assert cluster.get(1027, "/metrics") == 200
    assert "No running processes found" not in cluster.rig.run("node2", "npu-smi info").out
    cluster.rig.run("node2", "docker exec box pkill -9 -f runbook_lib.twin.daemon")
    cluster.output(1, "MIE04E120414")
    assert cluster.get(1026, "/v2/health/ready") == 503
    assert cluster.rig.run("node2", "npu-smi info").out.count("No running processes found") == 8
    cluster.rig.run("node1", "docker exec box pkill -TERM -f runbook_lib.twin.daemon")
    assert "Daemon is killing" in cluster.output(1, "code 0")


def test_a_start_alone_ends_with_the_link_table(cluster: Cluster) -> None:
    """A master whose slave never comes fails as HCCL does, after the timeout."""
    cluster.launch(1)
    text = cluster.output(1, "code 137")
    assert "(EI0006)" in text
    assert "Failed to init endpoint! Please check the service log or console output." in text
    plog = cluster.rig.run("node1", "cat /data/plog/log/debug/plog/*").out
    assert "need connect rankNum is [16]" in plog
    assert "wait socket establish timeout, role[0] rank[7] timeout[600 s]" in plog


def test_a_missing_gateway_is_a_time_out_that_does_not_name_it(cluster: Cluster) -> None:
    """One card without gateway: both ends time out on its pair, and no word says gateway."""
    hccn = "/usr/local/Ascend/driver/tools/hccn_tool -i 5"
    addresses = [f"{hccn} -ip -s address {ip} netmask 255.255.255.0" for ip in ("10.9.9.9", "192.168.11.205")]
    cluster.rig.run("node2", "; ".join([*addresses, "rm -rf /data/plog"]))  # another segment drops the gateway
    shown = cluster.rig.run("node2", f"{hccn} -gateway -g")
    assert "no gateway was preset" in shown.out + shown.err
    for number in (1, 2):
        cluster.launch(number)
    text = cluster.output(2, "code 137")
    plog = cluster.rig.run("node2", "cat /data/plog/log/debug/plog/*").out
    assert "192.168.11.105(5)   |  16666  |   192.168.11.205(13)" in plog
    assert "rank[12]" not in plog
    assert "gateway" not in (text + plog).lower()


def test_environment_and_ports_are_checked(cluster: Cluster) -> None:
    """Scripts that were not sourced, a taken port, a loose config and a foreign variable all end the start."""
    cluster.launch(1, "SKIP=mindie")
    assert "No module named 'mindie_llm'" in cluster.output(1, "code 137")
    cluster.launch(1, "SKIP=nnal/atb")
    assert "libtorch.so: cannot open shared object file" in cluster.output(1, "code 137")
    cluster.rig.run("node1", "chmod 644 /data/config.json")
    cluster.launch(1)
    assert "Check Other group permission failed" in cluster.output(1, "code 137")
    cluster.rig.run("node1", "chmod 640 /data/config.json; sed -i s/1025/1024/ /data/config.json")
    blocker = (
        'docker exec -d box python3 -c "import socket,time; s=socket.create_server(('
        f"'{cluster.network}.1',1024)); time.sleep(60)\"; sleep 0.5"
    )
    cluster.rig.run("node1", blocker)
    cluster.launch(1)
    text = cluster.output(1, "code 137")
    assert "Socket bind failed, bind_result is -1. Address already in use" in text
    assert "Failed to start http wrapper" in text
