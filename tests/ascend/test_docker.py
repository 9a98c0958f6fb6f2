"""docker's own words, as JSON and plain."""

from __future__ import annotations

import json

from hypothesis import given, settings
from hypothesis import strategies as st

from runbook_lib.ascend import docker
from runbook_lib.model import Capture

PLAIN = """Client:
 Version:           18.09.0
 OS/Arch:           linux/arm64

Server:
 Engine:
  Version:          18.09.1
  OS/Arch:          linux/arm64
 containerd:
  Version:          1.6.0
"""
INSPECT = [
    {
        "Id": "c0ffee",
        "Name": "/mindie",
        "Image": "sha256:abc",
        "State": {"Status": "running", "Pid": 321, "ExitCode": 0, "OOMKilled": False, "Error": "permission denied"},
        "Config": {"Image": "mindie:2.0.T3", "Env": ["A=1", "B=x=y"], "Labels": {"runbook": "run1"}},
        "HostConfig": {
            "ShmSize": 536870912000, "NetworkMode": "host", "Privileged": True, "Runtime": "runc", "Init": None,
            "Devices": [{"PathOnHost": "/dev/davinci0", "PathInContainer": "/dev/davinci0"}],
        },
        "Mounts": [{"Source": "/w", "Destination": "/w", "RW": False}],
    }
]  # fmt: skip


def good(stdout: str) -> Capture:
    return Capture(stdout=stdout, exit_code=0)


def test_version_as_json_and_plain() -> None:
    data = {"Client": {"Version": "26.1"}, "Server": {"Version": "26.1", "Arch": "arm64"}}
    assert docker.parse_version(good(json.dumps(data))).value == docker.DockerVersion("26.1", "26.1", "arm64")
    assert docker.parse_version(good(PLAIN)).value == docker.DockerVersion("18.09.0", "18.09.1", "arm64")
    assert docker.parse_version(good("json\n")).state == "unreadable"  # what clients before 23 print
    down = Capture(
        stderr="Cannot connect to the Docker daemon at unix:///x. Is the docker daemon running?", exit_code=1
    )
    assert docker.parse_version(down).reason == "daemon-down"


def test_info() -> None:
    data = {
        "ServerVersion": "26.1",
        "DockerRootDir": "/d",
        "DefaultRuntime": "ascend",
        "Runtimes": {"runc": {}, "ascend": {}},
    }
    info = docker.parse_info(good(json.dumps(data))).value
    assert info is not None
    assert (info.runtimes, info.default_runtime, info.architecture) == (("ascend", "runc"), "ascend", None)
    assert docker.parse_info(good(json.dumps({**data, "ServerErrors": ["down"]}))).state == "unreadable"


def test_images_and_containers() -> None:
    row = json.dumps({"Repository": "mindie", "Tag": "2.0.T3", "ID": "sha256:abc", "Size": "20GB"})
    images = docker.parse_images(good(f"{row}\n{row}\n")).value
    assert images is not None
    assert images[0].reference == "mindie:2.0.T3"
    assert docker.parse_images(good("")).value == ()
    assert docker.parse_images(good(f"{row}\n{row[:-4]}\n")).state == "unreadable"
    old = json.dumps({"ID": "c1", "Names": "a,b", "Image": "i", "Status": "Exited (137) 2 hours ago"})
    new = json.dumps({"ID": "c2", "Names": "c", "Image": "i", "Status": "Up 2 hours", "State": "running"})
    rows = docker.parse_ps(good(f"{old}\n{new}\n")).value
    assert rows is not None
    assert [(row.names, row.state) for row in rows] == [(("a", "b"), "exited"), (("c",), "running")]


def test_inspect() -> None:
    container = docker.parse_inspect(good(json.dumps(INSPECT))).value
    assert container is not None
    assert (container.name, container.state, container.pid) == ("mindie", "running", 321)
    assert container.env == {"A": "1", "B": "x=y"}
    assert container.mounts == (docker.Mount("/w", "/w", writable=False),)
    assert container.devices == ("/dev/davinci0",)
    assert (container.shm_size_bytes, container.network_mode, container.privileged) == (536870912000, "host", True)
    assert container.init is None


def test_no_such_container_is_unset() -> None:
    missing = Capture(stdout="[]\n", stderr="Error: No such object: mindie\n", exit_code=1)
    assert docker.parse_inspect(missing).state == "unset"
    assert docker.parse_inspect(good("[]")).state == "unreadable"


leaves = st.none() | st.booleans() | st.integers() | st.text(max_size=8)
values = st.recursive(
    leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
)
shapes = st.fixed_dictionaries(
    {},
    optional=dict.fromkeys(
        ["Id", "Name", "State", "Config", "HostConfig", "Mounts", "Client", "Server", "ID", "Names", "Runtimes"], values
    ),
)


@settings(max_examples=80, deadline=None)
@given(data=shapes, text=st.text(max_size=100))
def test_no_shape_raises(data: object, text: str) -> None:
    for stdout in (json.dumps(data), json.dumps([data]), text, "[" * 5000):
        for parser in (
            docker.parse_version, docker.parse_info, docker.parse_images, docker.parse_ps, docker.parse_inspect,
        ):  # fmt: skip
            parser(good(stdout))
