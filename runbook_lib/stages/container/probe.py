"""What is read of images, containers and what a container needs, on one host."""

from __future__ import annotations

from typing import TYPE_CHECKING

from runbook_lib.model import ProbeScript, Section
from runbook_lib.stages.push import source
from runbook_lib.stages.service.probe import in_container
from runbook_lib.stages.weights.probe import tool_file

if TYPE_CHECKING:
    from runbook_lib.params import Host, HostPaths, Params

MANAGERS = ("/dev/davinci_manager", "/dev/devmm_svm", "/dev/hisi_hdc")
_NPU_SMI = ("/usr/local/sbin/npu-smi", "/usr/local/bin/npu-smi")  # the place differs by system (npu-smi reference)


def optional_mounts(paths: HostPaths) -> tuple[str, ...]:
    """Return what is mounted where the host has it (docker_run reference, section 2)."""
    return (
        f"{paths.ascend_root}/driver",
        f"{paths.ascend_root}/firmware",
        *(paths.root + place for place in _NPU_SMI),
        f"{paths.root}/usr/local/dcmi",
        paths.install_info,
        paths.hccn_conf,
    )


def brought_by_runtime(paths: HostPaths) -> tuple[str, ...]:
    """Return the mounts that ascend-docker-runtime makes itself."""
    return (f"{paths.ascend_root}/driver", *(paths.root + place for place in _NPU_SMI), f"{paths.root}/usr/local/dcmi")


def devices_of(host: Host, paths: HostPaths) -> tuple[str, ...]:
    """Return the devices that a host shall have: its cards and the managers."""
    cards = (f"{paths.root}/dev/davinci{card.id}" for card in host.cards)
    return (*cards, *(paths.root + place for place in MANAGERS))


def state_file(paths: HostPaths) -> str:
    """Return where a host records the sum of its tar."""
    return f"{paths.work}/image/state.json"


def _tar(paths: HostPaths) -> tuple[Section, ...]:
    """Return the look at the image's tar, where params name one."""
    argv = ("python3", "-c", source("image_tar.py"), paths.image_tar, state_file(paths))
    return (Section("tar", argv, 60.0),) if paths.image_tar else ()


def probe(params: Params, host: Host, paths: HostPaths) -> ProbeScript:
    """Read images, containers, which devices and mounts exist, and whether a daemon runs in the container."""
    pid_file = f"{paths.inside(paths.service)}/daemon.pid"
    return ProbeScript(
        (
            Section("images", ("docker", "images", "--no-trunc", "--format", "{{json .}}")),
            Section("containers", ("docker", "ps", "-a", "--no-trunc", "--format", "{{json .}}")),
            Section("container", ("docker", "inspect", params.container.name)),
            # ls names what exists on stdout and what does not on stderr
            Section("devices", ("ls", "-d", *devices_of(host, paths))),
            Section("mounts", ("ls", "-d", *optional_mounts(paths))),
            Section("memory", ("free", "-b")),
            Section("machine", ("uname", "-m")),
            Section("arch", ("docker", "image", "inspect", "--format", "{{.Architecture}}", params.container.image)),
            Section("runtime", ("docker", "info", "--format", "{{json .}}")),
            *_tar(paths),
            Section("tool", ("cat", tool_file(paths))),
            Section("work", ("ls", "-d", paths.work)),
            Section("service", ("ls", "-d", paths.service)),
            Section("weights", ("ls", "-d", f"{paths.weights}/config.json")),
            Section("daemon", in_container(params, "sh", "-c", source("alive.sh"), "sh", pid_file)),
        )
    )
