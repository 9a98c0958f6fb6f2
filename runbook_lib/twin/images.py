"""What a MindIE image holds, and the tar that `docker load` reads.

A small own tree in the places of the real image (mindie.md sections 1, 4 and 6): the set_env.sh scripts, the service's
folder with its default config.json, and a `mindieservice_daemon` that starts the emulated one.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

ASCEND = "usr/local/Ascend"
SERVICE = f"{ASCEND}/mindie/latest/mindie-service"
DAEMON = f"{SERVICE}/bin/mindieservice_daemon"
_EPOCH = 1_741_000_000  # one fixed time for all entries: the same image has the same id everywhere
CREATED = "2025-03-03T11:06:40Z"
SHOWN_SIZE = 24_300_000_000  # what `docker images` shows of the real image, about


@dataclass(frozen=True, slots=True)
class Entry:
    """A file (content) or a folder (None) of the image."""

    mode: int
    content: str | None = None


def image_version(image: str) -> str:
    """Return the MindIE version of an image reference: the part of the tag before the server type."""
    tag = image.rsplit("/", 1)[-1].partition(":")[2]
    return tag.partition("-800I")[0] or "2.0.T3.1"


def image_entries(version: str) -> dict[str, Entry]:
    """Return the tree of an image, by path without the leading slash."""
    home = f"/{ASCEND}"
    models = "llm_model" if version.startswith("1.") else "atb-models"
    folders = dict.fromkeys(
        ("data", "dev", "etc", "home", "mnt", "opt/twin", "proc", "run", "srv", "sys"), Entry(0o755)
    )
    folders |= dict.fromkeys(("usr/local/bin", "usr/local/sbin", "usr/local/lib", "var/lib", "var/log"), Entry(0o755))
    folders |= {"root": Entry(0o700), "tmp": Entry(0o1777), "var/tmp": Entry(0o1777)}
    service = {
        SERVICE: Entry(0o750),
        f"{SERVICE}/bin": Entry(0o550),
        f"{SERVICE}/conf": Entry(0o750),
        f"{SERVICE}/conf/config.json": Entry(0o640, json.dumps(default_config(version), indent=4) + "\n"),
        f"{SERVICE}/lib": Entry(0o750),
        f"{SERVICE}/lib/libmindieservice_llm_engine.so": Entry(0o440, ""),
        f"{SERVICE}/logs": Entry(0o750),
        f"{SERVICE}/security": Entry(0o700),
        f"{SERVICE}/set_env.sh": _exports(MIES_INSTALL_PATH=f"/{SERVICE}"),
        f"{SERVICE}/bin/mindieservice_daemon": Entry(0o550, daemon_script("/opt/twin/bin/python3")),
    }
    return {
        **folders,
        "etc/os-release": Entry(0o644, 'NAME="openEuler"\nVERSION="24.03 (LTS)"\nID="openEuler"\nVERSION_ID="24.03"\n'),
        "etc/passwd": Entry(
            0o644, "root:x:0:0:root:/root:/bin/bash\nHwHiAiUser:x:1001:1001::/home/HwHiAiUser:/bin/bash\n"
        ),
        "etc/group": Entry(0o644, "root:x:0:\nHwHiAiUser:x:1001:\n"),
        "root/.bashrc": Entry(0o644, "# .bashrc\n"),
        "usr/local/bin/python3": Entry(0o755, '#!/bin/bash\nexec /opt/twin/bin/python3 "$@"\n'),
        f"{ASCEND}/ascend-toolkit/set_env.sh": _exports(
            ASCEND_TOOLKIT_HOME=f"{home}/ascend-toolkit/latest",
            ASCEND_HOME_PATH=f"{home}/ascend-toolkit/latest",
            ASCEND_OPP_PATH=f"{home}/ascend-toolkit/latest/opp",
        ),
        f"{ASCEND}/nnal/atb/set_env.sh": _exports(ATB_HOME_PATH=f"{home}/nnal/atb/latest/atb/cxx_abi_0"),
        f"{ASCEND}/{models}/set_env.sh": _exports(ATB_SPEED_HOME_PATH=f"{home}/{models}"),
        f"{ASCEND}/mindie/set_env.sh": _exports(MINDIE_LLM_HOME_PATH=f"{home}/mindie/latest/mindie-llm"),
        f"{ASCEND}/mindie/latest/version.info": Entry(0o440, f"Ascend-mindie : MindIE {version}\nPlatform : aarch64\n"),
        **service,
    }


def _exports(**variables: str) -> Entry:
    return Entry(0o640, "".join(f"export {name}={value}\n" for name, value in variables.items()))


def daemon_script(python: str, setting: str = "") -> str:
    """Return the program file of the daemon. `setting` is one more `NAME=value` for the interpreter."""
    return f'#!/bin/bash\n{setting} exec {python} -m runbook_lib.twin.daemon "$@"\n'.replace("\n ", "\n")


def default_config(version: str = "2.0.T3") -> dict[str, Any]:
    """Return the config.json that an image ships: documented defaults, https on, one node of four cards."""
    old = version.startswith(("1.", "2.0.T"))
    server = {
        "ipAddress": "127.0.0.1",
        "managementIpAddress": "127.0.0.2",
        "port": 1025,
        "managementPort": 1026,
        "metricsPort": 1027,
        "allowAllZeroIpListening": False,
        "maxLinkNum": 1000,
        "httpsEnabled": True,
        "fullTextEnabled": False,
        "tlsCaPath": "security/ca/",
        "tlsCaFile": ["ca.pem"],
        "tlsCert": "security/certs/server.pem",
        "tlsPk": "security/keys/server.key.pem",
        "tlsPkPwd": "security/pass/key_pwd.txt",
        "inferMode": "standard",
        "interCommTLSEnabled": True,
        "interCommPort": 1121,
        "openAiSupport": "vllm",
    }
    model = {
        "modelInstanceType": "Standard",
        "modelName": "llama_65b",
        "modelWeightPath": "/data/atb_testdata/weights/llama1-65b-safetensors",
        "worldSize": 4,
        "cpuMemSize": 5,
        "npuMemSize": -1,
        "backendType": "atb",
        "trustRemoteCode": False,
    }
    schedule = {
        "templateType": "Standard",
        "templateName": "Standard_LLM",
        "cacheBlockSize": 128,
        "maxPrefillBatchSize": 50,
        "maxPrefillTokens": 8192,
        "prefillTimeMsPerReq": 150,
        "prefillPolicyType": 0,
        "decodeTimeMsPerReq": 50,
        "decodePolicyType": 0,
        "maxBatchSize": 200,
        "maxIterTimes": 512,
        "maxPreemptCount": 0,
        "supportSelectBatch": False,
        "maxQueueDelayMicroseconds": 5000,
    }
    backend = {
        "backendName": "mindieservice_llm_engine",
        "modelInstanceNumber": 1,
        "npuDeviceIds": [[0, 1, 2, 3]],
        "tokenizerProcessNumber": 8,
        "multiNodesInferEnabled": False,
        "multiNodesInferPort": 1120,
        "interNodeTLSEnabled": True,
        "interNodeTlsCaPath": "security/grpc/ca/",
        "interNodeTlsCaFiles": ["ca.pem"],
        "interNodeTlsCert": "security/grpc/certs/server.pem",
        "interNodeTlsPk": "security/grpc/keys/server.key.pem",
        "ModelDeployConfig": {
            "maxSeqLen": 2560,
            "maxInputTokenLen": 2048,
            "truncation": False if old else 0,
            "ModelConfig": [model],
        },
        "ScheduleConfig": schedule,
    }
    if not old:  # keys that came with 2.0.RC1 (mindie.md section 1.1)
        server |= {"metricsTlsCaFile": ["metrics_ca.pem"], "metricsTlsCert": "security/certs/metrics/server.pem"}
        server |= {"tokenTimeout": 600, "e2eTimeout": 600, "distDPServerEnabled": False}
    log = {"logLevel": "Info", "logFileSize": 20, "logFileNum": 20, "logPath": "logs/mindie-server.log"}
    return {"Version": "1.0.0", "LogConfig": log, "ServerConfig": server, "BackendConfig": backend}


def write_image_tar(path: Path, image: str, names: Sequence[str] | None = None) -> None:
    """Write what `docker save IMAGE` would: manifest.json, the image's config and one layer.

    names: what the image is called in the tar, if not `image`; saved by its id it has no name.
    """
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as tar:
        for name, entry in image_entries(image_version(image)).items():
            _add(tar, name, entry)
    diff = hashlib.sha256(layer.getvalue()).hexdigest()
    config = {
        "architecture": "arm64",
        "os": "linux",
        "created": CREATED,
        "config": {"Env": [f"PATH={CONTAINER_PATH}"], "Cmd": ["/bin/bash"], "WorkingDir": ""},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{diff}"]},
    }
    text = json.dumps(config)
    name = f"{hashlib.sha256(text.encode()).hexdigest()}.json"
    manifest = [
        {"Config": name, "RepoTags": [image] if names is None else list(names) or None, "Layers": [f"{diff}/layer.tar"]}
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        _add(tar, f"{diff}/layer.tar", Entry(0o644), layer.getvalue())
        _add(tar, name, Entry(0o644, text))
        _add(tar, "manifest.json", Entry(0o644, json.dumps(manifest)))


CONTAINER_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def _add(tar: tarfile.TarFile, name: str, entry: Entry, data: bytes | None = None) -> None:
    if data is None and entry.content is not None:
        data = entry.content.encode()
    info = tarfile.TarInfo(name)
    info.mode, info.mtime = entry.mode, _EPOCH
    if data is None:
        info.type = tarfile.DIRTYPE
        tar.addfile(info)
    else:
        info.size = len(data)
        tar.addfile(info, io.BytesIO(data))
