"""The emulated docker on a running twin."""

from __future__ import annotations

import json
import tarfile
from typing import TYPE_CHECKING, Any

import pytest

from runbook_lib.twin.container_options import UsageError, parse_run
from runbook_lib.twin.container_runtime import map_paths
from runbook_lib.twin.images import write_image_tar
from runbook_lib.twin.tools.docker_images import _extract, _member

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.twin.conftest import Rig

IMAGE = "mindie:2.0.T3.1-800I-A2-py311-openeuler24.03-lts"


@pytest.fixture(scope="module")
def loaded(rig: Rig) -> Rig:
    """Return a twin with the image loaded on node1."""
    done = rig.run("node1", "docker load -i /data/images/mindie.tar")
    assert (done.code, done.out) == (0, f"Loaded image: {IMAGE}\n")
    return rig


@pytest.fixture
def box(loaded: Rig) -> Iterator[Rig]:
    """Return a twin with a container `box` on node1, with one device and three mounts."""
    done = loaded.run(
        "node1",
        "mkdir -p /data/w && ln -sfn /elsewhere/shard /data/w/dangling && echo real > /data/w/real && "
        "docker run -itd --name box --net=host --shm-size 2g --device=/dev/davinci0 -e GREETING=hello -w /tmp "
        f"-v /data/w:/data/w:ro -v /data/made:/data/made -v /etc/hccn.conf:/etc/hccn.conf {IMAGE} bash",
    )
    assert (done.code, len(done.out.strip()), done.err) == (0, 64, "")
    yield loaded
    loaded.run("node1", "docker rm -f box")


def inspected(rig: Rig, name: str = "box") -> dict[str, Any]:
    """Return what `docker inspect` says."""
    (facts,) = json.loads(rig.run("node1", f"docker inspect {name}").out)
    return dict(facts)


def test_a_container_has_a_view_of_its_own(box: Rig) -> None:
    """Own pids, only the given devices, the given /dev/shm, the mounts; the node's name and machine."""
    if inspected(box)["State"]["Pid"] == 0 or box.run("node1", "test -e /.dockerenv; ls /opt/twin/link").code:
        pytest.skip("this machine has no user namespaces: containers have no view of their own")
    script = (
        "echo $$; ls /dev | grep davinci; df -m /dev/shm | tail -1; cat /data/w/real; cat /data/w/dangling; "
        "touch /data/w/new; uname -m; hostname; echo $GREETING; pwd; stat -c %a "
        "/usr/local/Ascend/mindie/latest/mindie-service/conf/config.json; ls /proc | grep -c '^[0-9]'"
    )
    done = box.run("node1", f"docker exec box bash -c '{script}'")
    lines = done.out.splitlines()
    assert lines[1] == "davinci0"
    assert lines[2].split()[1] == "2048"
    assert lines[3:9] == ["real", "aarch64", "node1", "hello", "/tmp", "640"]
    assert int(lines[9]) < 10
    assert "dangling: No such file" in done.err
    assert "Read-only file system" in done.err
    assert box.run("node1", "test -d /data/made").code == 0


def test_inspect_says_what_run_was_told(box: Rig) -> None:
    """Inspect says what run was told."""
    facts = inspected(box)
    assert facts["Name"] == "/box"
    assert facts["State"]["Running"] is True
    assert facts["Config"]["Image"] == IMAGE
    assert "GREETING=hello" in facts["Config"]["Env"]
    assert facts["HostConfig"]["Binds"][0] == "/data/w:/data/w:ro"
    assert (facts["HostConfig"]["ShmSize"], facts["HostConfig"]["NetworkMode"]) == (2 << 30, "host")
    assert [device["PathOnHost"] for device in facts["HostConfig"]["Devices"]] == ["/dev/davinci0"]
    assert [mount["RW"] for mount in facts["Mounts"]] == [False, True, True]
    assert facts["Image"] == json.loads(box.run("node1", f"docker image inspect {IMAGE}").out)[0]["Id"]
    row = json.loads(box.run("node1", "docker ps --no-trunc --format '{{json .}}' --filter name=^box$").out)
    assert (row["ID"], row["Names"], row["State"]) == (facts["Id"], "box", "running")
    assert box.run("node1", "docker inspect --format '{{.State.Running}}' box").out == "true\n"


def test_exec_passes_input_output_and_exit_code(box: Rig) -> None:
    """Exec passes input, output and the exit code."""
    done = box.run("node1", "echo words | docker exec -i -e A=1 box bash -c 'cat; echo $A >&2; exit 7'")
    assert (done.code, done.out, done.err) == (7, "words\n", "1\n")
    assert box.run("node1", "docker exec box no-such-program").code == 127
    assert "No such container: other" in box.run("node1", "docker exec other true").err


def test_stop_kills_what_runs_inside_and_start_brings_it_back(box: Rig) -> None:
    """Stop kills what runs inside, and start brings the container back with its files."""
    box.run("node1", "docker exec -d box bash -c 'echo kept > /data/made/kept; exec sleep 4321'")
    running = box.run("node1", "for i in {1..50}; do pgrep -f 'sleep 4321' && break; sleep 0.1; done")
    assert running.out.strip()
    assert box.run("node1", "docker stop -t 1 box").out == "box\n"
    assert box.run("node1", "pgrep -f 'sleep 4321'").out == ""
    state = inspected(box)["State"]
    assert (state["Status"], state["Pid"]) == ("exited", 0)
    assert state["ExitCode"] in {137, 143}
    assert "is not running" in box.run("node1", "docker exec box true").err
    assert box.run("node1", "docker ps --format '{{.Names}}'").out == ""
    assert box.run("node1", "docker start box").code == 0
    assert box.run("node1", "cat /data/made/kept").out == "kept\n"
    assert "You cannot remove a running container" in box.run("node1", "docker rm box").err


@pytest.mark.parametrize(
    ("command", "code", "words"),
    [
        (f"docker run -itd --name box {IMAGE} bash", 125, 'The container name "/box" is already in use by container'),
        (f"docker run -itd --device=/dev/davinci9 {IMAGE} bash", 125, 'custom device "/dev/davinci9": no such file'),
        ("docker run -itd nothing:1 bash", 125, "Unable to find image 'nothing:1' locally"),
        (f"docker run -itd --name= x {IMAGE} bash", 125, "Unable to find image 'x:latest' locally"),
        (f"docker run -itd --shm-size 5q {IMAGE} bash", 125, "invalid size: '5q'"),
        (f"docker run -itd -v data:relative:x:y {IMAGE} bash", 125, "invalid volume specification"),
        ("docker load -i /nothing.tar", 1, "open /nothing.tar: no such file or directory"),
        ("docker load -i /etc/passwd", 1, "invalid tar header"),
        ("docker inspect nothing", 1, "Error: No such object: nothing"),
        ("docker fly", 1, "docker: 'fly' is not a docker command."),
    ],
)
def test_refusals_are_in_docker_s_words(box: Rig, command: str, code: int, words: str) -> None:
    """Refusals are in docker's words."""
    done = box.run("node1", command)
    assert done.code == code
    assert words in done.err


def test_images_and_info(loaded: Rig) -> None:
    """Images and facts are given as tables and as JSON; an image belongs to its node."""
    row = json.loads(loaded.run("node1", "docker images --format '{{json .}}'").out)
    assert f"{row['Repository']}:{row['Tag']}" == IMAGE
    assert loaded.run("node1", "docker images").out.splitlines()[0].split()[0] == "REPOSITORY"
    assert loaded.run("node2", "docker images -q").out == ""
    info = json.loads(loaded.run("node1", "docker info --format '{{json .}}'").out)
    assert (info["Architecture"], info["DefaultRuntime"]) == ("aarch64", "runc")
    assert json.loads(loaded.run("node1", "docker version --format json").out)["Server"]["Version"]


def test_a_reboot_leaves_containers_exited(new_rig: Callable[..., Rig]) -> None:
    """A twin that goes down and comes up again has its containers, not running."""
    from runbook_lib.twin import lifecycle  # noqa: PLC0415 - only this test powers a twin itself

    rig = new_rig()
    lifecycle.up(rig.params, rig.root)
    rig.run("node1", f"docker load -i /data/images/mindie.tar && docker run -itd --name box {IMAGE} bash")
    assert inspected(rig)["State"]["Running"] is True
    lifecycle.reboot(rig.params, rig.root, "node1")
    state = inspected(rig)["State"]
    assert (state["Status"], state["Running"], state["ExitCode"]) == ("exited", False, 137)


def test_options_of_run_are_read_in_all_their_forms() -> None:
    """Options of run are read in all their forms."""
    options = parse_run(
        "-itd --privileged --name=a1 --network host --shm-size=500g --device /dev/davinci0 --init --ipc=host --ulimit "
        f"nofile=65535 --restart always --user root -e A=b -w /w -v /a:/b:ro {IMAGE} bash -c true".split()
    )
    assert (options.detach, options.interactive, options.tty, options.privileged, options.init) == (True,) * 5
    assert (options.name, options.network, options.shm_bytes) == ("a1", "host", 500 << 30)
    assert (options.image, options.command) == (IMAGE, ["bash", "-c", "true"])
    with pytest.raises(UsageError, match="unknown flag: --fly"):
        parse_run(["--fly", IMAGE])


def test_without_namespaces_paths_are_mapped_by_the_longest_mount() -> None:
    """Without namespaces paths are mapped by the longest mount, and only whole ones."""
    mounts = [("/data/weights", "/n/w"), ("/data", "/n/d")]
    assert map_paths("cat /data/weights/x /data/y /database /x/data", mounts) == "cat /n/w/x /n/d/y /database /x/data"


def test_an_image_has_names_and_goes_with_the_last(loaded: Rig) -> None:
    """Tag adds a name; rmi takes one, and refuses an id that has several; a tar may carry a name or none."""
    ident = loaded.run("node1", f"docker image inspect --format '{{{{.Id}}}}' {IMAGE}").out.strip()
    assert loaded.run("node1", f"docker tag {ident} other:1 && docker rmi {ident}").err.endswith(
        "image is referenced in multiple repositories\n"
    )
    assert loaded.run("node1", "docker rmi other:1").out == "Untagged: other:1\n"
    assert loaded.run("node1", f"docker tag none:1 {IMAGE}").err == (
        "Error response from daemon: No such image: none:1\n"
    )
    assert IMAGE.partition(":")[0] in loaded.run("node1", "docker images").out


def test_the_ascend_runtime_brings_cards_and_driver(loaded: Rig) -> None:
    """Only where daemon.json names it; inspect does not show what it brought."""
    asked = "docker run -d --name seen --runtime=ascend -e ASCEND_VISIBLE_DEVICES=0,2-3"
    refused = loaded.run("node1", f"{asked} {IMAGE} sleep 100")
    assert (refused.code, "unknown or invalid runtime name: ascend" in refused.err) == (125, True)
    config = {"runtimes": {"ascend": {"path": "/usr/local/Ascend/Ascend-Docker-Runtime/ascend-docker-runtime"}}}
    loaded.run("node1", f"mkdir -p /etc/docker && echo '{json.dumps(config)}' >/etc/docker/daemon.json")
    try:
        assert "ascend" in json.loads(loaded.run("node1", "docker info --format '{{json .}}'").out)["Runtimes"]
        assert loaded.run("node1", f"{asked} {IMAGE} sleep 100").code == 0
        facts = inspected(loaded, "seen")["HostConfig"]
        assert (facts["Runtime"], facts["Devices"]) == ("ascend", [])
        if loaded.run("node1", "test -e /opt/twin/link").code == 0:  # L0 containers have no view of their own
            there = loaded.run("node1", "docker exec seen bash -c 'ls -d /dev/davinci* /usr/local/Ascend/driver/*info'")
            assert there.out.split() == [
                "/dev/davinci0", "/dev/davinci2", "/dev/davinci3", "/dev/davinci_manager",
                "/usr/local/Ascend/driver/version.info",
            ]  # fmt: skip
    finally:
        loaded.run("node1", "docker rm -f seen; rm /etc/docker/daemon.json")


def test_a_load_that_is_killed_leaves_no_half_of_an_image(tmp_path: Path) -> None:
    """The next one unpacks all of it; once it did not, and every look into the container failed."""
    path, rootfs = tmp_path / "mindie.tar", tmp_path / "images" / "rootfs"
    write_image_tar(path, IMAGE)
    with tarfile.open(path) as tar:
        layers = json.loads(_member(tar, "manifest.json").read())[0]["Layers"]
        with pytest.raises(KeyError):
            _extract(tar, [*layers, "cut"], rootfs)
        assert not list(rootfs.parent.iterdir())
        _extract(tar, layers, rootfs)
    assert (rootfs / "usr/local/Ascend/mindie/latest/mindie-service/conf/config.json").is_file()
