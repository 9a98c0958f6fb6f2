"""What the emulated daemon checks in files before it joins the others: permissions, weights, rank table, devices.

Every function returns what it read, or raises StartFailure with the real service's words (mindie.md, failures.md).
Standard library only: this runs inside the container.
"""

from __future__ import annotations

import ipaddress
import json
import os
import re
import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

_HEADER_LIMIT = 100_000_000
SHM_NEEDED = 1 << 30
_GROUP, _OTHER = 0o070, 0o007
MODEL_FOLLOW_UP = "Failed check model config.json! take modelConfig.modelWeightPath to empty"


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a failure. `sink`: mindie (log), stderr, plog or block (on-screen CANN error)."""

    sink: str
    text: str
    source: str = ""


class StartFailure(Exception):  # noqa: N818 - it is an event of the emulated world, not an error of ours
    """The daemon cannot start. `lines` go to the logs in this order."""

    def __init__(self, *lines: Line) -> None:
        super().__init__(lines[0].text)
        self.lines = lines


def failure(text: str, source: str = "config_manager.cpp:112") -> StartFailure:
    """Return a failure of one MindIE log line."""
    return StartFailure(Line("mindie", text, source))


@dataclass(frozen=True, slots=True)
class Files:
    """How this process sees the container's files. `owner` answers (uid, gid) of a path, None when nobody can say."""

    place: Callable[[str], Path]
    owner: Callable[[Path], tuple[int, int] | None]
    uid: int = 0
    check_permissions: bool = True


def check_sourced(env: Mapping[str, str], version: str) -> None:
    """Raise when a set_env.sh was not sourced, by what they export (mindie.md section 3, failures.md 51 and 52)."""
    if not env.get("MINDIE_LLM_HOME_PATH") or not env.get("MIES_INSTALL_PATH"):
        raise StartFailure(
            Line("stderr", "Failed to get vocab size from tokenizer wrapper with exception"),
            Line("stderr", "ModuleNotFoundError: No module named 'mindie_llm'"),
        )
    missing = [name for name in ("ASCEND_TOOLKIT_HOME", "ATB_HOME_PATH", "ATB_SPEED_HOME_PATH") if not env.get(name)]
    if not missing:
        return
    if missing == ["ATB_SPEED_HOME_PATH"] and not version.startswith("2.2"):
        raise StartFailure(
            Line("stderr", "Failed to get vocab size from tokenizer wrapper with exception"),
            Line("stderr", "ModuleNotFoundError: No module named 'atb_llm'"),
        )
    raise StartFailure(
        Line(
            "stderr",
            "./bin/mindieservice_daemon: error while loading shared libraries: libtorch.so: cannot open shared object "
            "file: No such file or directory",
        )
    )


def check_library(path: Path) -> None:
    """The engine's library must have exactly the mode 440 (failures.md row 40)."""  # noqa: D401 - the rule itself
    if path.stat().st_mode & 0o777 != 0o440:  # noqa: PLR2004 - the mode
        raise failure("[MIE04E060102] [infer_backend] Failed to check libmindieservice_llm_engine.so", "backend:118")


def check_mode(files: Files, path: Path, name: str, most: int) -> None:
    """Raise when `path` gives more than the mode `most`, or belongs to somebody else."""
    if not files.check_permissions:
        return
    mode = path.stat().st_mode & 0o777
    for who, mask, shift in (("Other", _OTHER, 0), ("Group", _GROUP, 3)):
        current, allowed = (mode & mask) >> shift, (most & mask) >> shift
        if current & ~allowed:
            raise failure(
                f"Check path: {name} failed, by: Check {who} group permission failed: Current permission is {current}, "
                f"but required no greater than {allowed}.",
                "file_utils.cpp:208",
            )
    owner = files.owner(path)
    if owner is not None and owner[0] != files.uid:
        # the wording is not sourced; the rule is
        raise failure(
            f"Check path: {name} failed, by: Check owner failed: Current owner is {owner[0]}, "
            f"but required {files.uid}.",
            "file_utils.cpp:181",
        )


def check_shm(place: Callable[[str], Path], at_l0: bool) -> None:  # noqa: FBT001 - one of two worlds
    """Less than 1 GB of /dev/shm cannot hold the queues (failures.md row 60). L0 has no /dev/shm of its own."""
    if at_l0:
        return
    status = os.statvfs(place("/dev/shm"))  # noqa: S108 - the size of the mount is the question
    if status.f_frsize * status.f_blocks < SHM_NEEDED:
        raise StartFailure(Line("stderr", "The futex facility returned an unexpected error code."))


def check_devices(place: Callable[[str], Path], cards: Sequence[int]) -> None:
    """Raise when the container lacks a device, the driver, or the cards' network file (docker_run.md section 2)."""
    if not place("/usr/local/Ascend/driver/version.info").is_file():
        raise StartFailure(
            Line(
                "stderr",
                "ImportError: libascend_hal.so: cannot open shared object file: No such file or directory",
            )
        )
    for manager in ("davinci_manager", "devmm_svm", "hisi_hdc"):
        if not place(f"/dev/{manager}").exists():
            raise StartFailure(
                Line("stderr", "dcmi module initialize failed. ret is -8005"),
                Line("plog", f"[Init][Device]open /dev/{manager} failed, aclInit ret[507899]", "driver_mgr.cc:88"),
            )
    for card in cards:
        if not place(f"/dev/davinci{card}").exists():
            raise StartFailure(
                Line("plog", f"[Open][Tsd]Open TsdClient failed, devId[{card}]", "tsd_client.cc:97"),
                Line("stderr", f"RuntimeError: Invalid device ID {card}."),
            )
    conf = place("/etc/hccn.conf")
    if not conf.is_file() or not conf.stat().st_size:  # the place of a former mount stays as an empty file
        raise failure("Parameter device_ip is invalid in ranktable file.", "ranktable_config.cpp:88")


def check_weights(files: Files, directory: str) -> dict[str, Any]:
    """Check the weights as the loader would; return their config.json."""
    folder = files.place(directory)
    config_file = folder / "config.json"
    if not config_file.is_file():
        raise failure(f"Check path: {directory}/config.json failed, by: The path is not exist.", "file_utils.cpp:95")
    try:
        check_mode(files, config_file, "config.json", 0o750)
        check_mode(files, folder, directory, 0o750)
        for path in sorted(folder.iterdir()):
            if path.exists():
                check_mode(files, path, path.name, 0o750)
    except StartFailure as refused:
        raise StartFailure(*refused.lines, Line("mindie", MODEL_FOLLOW_UP, "model_deploy_config.cpp:301")) from None
    config = _model_config(config_file)
    _check_shards(folder)
    return config


def _model_config(path: Path) -> dict[str, Any]:
    try:
        config = dict(json.loads(path.read_bytes()))
    except (ValueError, TypeError):
        raise failure(
            "[MIE05E000000] [model] Failed to parse the config.json of the model weights.", "model.cpp:71"
        ) from None
    if config.get("model_type") != "deepseekv2":
        raise StartFailure(
            Line(
                "mindie", f"[MIE05E000003] [model] model_type {config.get('model_type')!r} is not supported.", "llm:88"
            ),
            _backend_line(),
        )
    if config.get("torch_dtype") not in {"bfloat16", "float16"} or "fp8" in json.dumps(
        config.get("quantization_config", "")
    ):
        raise StartFailure(
            Line("mindie", "[MIE05E000000] [model] torch_dtype or quantization_config is invalid.", "llm:93"),
            _backend_line(),
        )
    return config


def _backend_line() -> Line:
    return Line(
        "mindie",
        "[MIE05E030001] [model] Initialize modelBackends_ failed, export MINDIE_LLM_PYTHON_LOG_TO_STDOUT=1",
        "llm_infer_models.cpp:57",
    )


def _load_failure(text: str) -> StartFailure:
    return StartFailure(
        Line("stderr", text),
        _backend_line(),
        Line("mindie", "[MIE05E040001] [engine] LLMInferEngine failed to init LLMInferModels", "infer_engine.cpp:63"),
    )


def _check_shards(folder: Path) -> None:
    indexes = sorted(folder.glob("*.index.json"))
    shards = sorted(path.name for path in folder.glob("*.safetensors") if not path.name.startswith("."))
    try:
        listed = {str(name) for index in indexes for name in json.loads(index.read_bytes())["weight_map"].values()}
    except (ValueError, KeyError, AttributeError):
        raise _load_failure(f"KeyError: 'weight_map' in {indexes[0].name}") from None
    if not shards and not listed:
        raise _load_failure(f"FileNotFoundError: No safetensors weights found in {folder}")
    for name in sorted(listed | set(shards)):
        check_header(folder / name)


def check_header(path: Path) -> None:
    """Read a shard's header as safetensors does: it must be there, whole, and cover the file."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(8)
            length = struct.unpack("<Q", head)[0] if len(head) == 8 else -1  # noqa: PLR2004 - a u64
            text = file.read(length) if 0 <= length <= _HEADER_LIMIT else b""
    except OSError:
        raise _load_failure(f'FileNotFoundError: No such file or directory: "{path}"') from None
    error = "safetensors_rust.SafetensorError: Error while deserializing header: "
    if length < 0:
        raise _load_failure(f"{error}HeaderTooSmall")
    if length > _HEADER_LIMIT:
        raise _load_failure(f"{error}HeaderTooLarge")
    try:
        header = json.loads(text)
        end = max(entry["data_offsets"][1] for key, entry in header.items() if key != "__metadata__")
    except (ValueError, KeyError, TypeError, AttributeError):
        reason = "InvalidHeaderLength" if len(text) < length else "InvalidHeaderDeserialization"
        raise _load_failure(f"{error}{reason}") from None
    if 8 + length + end != size:
        raise _load_failure(f"{error}MetadataIncompleteBuffer")


@dataclass(frozen=True, slots=True)
class Server:
    """One server of the rank table. `devices` are (device id, device ip, rank id)."""

    container_ip: str
    devices: tuple[tuple[int, str, int], ...]


@dataclass(frozen=True, slots=True)
class RankTable:
    """The rank table. The first server is the master."""

    servers: tuple[Server, ...]
    own: int
    text: bytes = field(repr=False)

    @property
    def world_size(self) -> int:
        """All cards."""
        return sum(len(server.devices) for server in self.servers)


def rank_table_variable(version: str) -> str:
    """Return the variable that an image reads: it was renamed with 2.1 (mindie.md section 2)."""
    numbers = re.match(r"(\d+)\.(\d+)", version)
    return "RANK_TABLE_FILE" if numbers and (int(numbers[1]), int(numbers[2])) >= (2, 1) else "RANKTABLEFILE"


def read_rank_table(files: Files, env: Mapping[str, str], version: str) -> RankTable:
    """Read and check the rank table that the image's variable names."""
    source = "ranktable_config.cpp:88"
    variable = rank_table_variable(version)
    path = env.get(variable, "")
    if not path or not files.place(path).is_file():
        raise failure(
            f"Ranktable file is not exist, please set a valid ranktable file path with {variable} environment.", source
        )
    check_mode(files, files.place(path), path, 0o640)
    if not env.get("MIES_CONTAINER_IP"):
        raise failure("The env variable MIES_CONTAINER_IP isn't exist.", source)
    try:
        text = files.place(path).read_bytes()
    except OSError:
        raise failure("Error: Open ranktable json file failed", source) from None
    try:
        table = dict(json.loads(text))
    except (ValueError, TypeError):
        raise failure("Ranktable file is invalid. Please check json format!", source) from None
    servers = _servers(table, source)
    own = [index for index, server in enumerate(servers) if server.container_ip == env["MIES_CONTAINER_IP"]]
    if not own:
        raise failure(
            f"The MIES_CONTAINER_IP {env['MIES_CONTAINER_IP']} is not found in the server_list of ranktable file.",
            source,
        )
    found = RankTable(servers, own[0], text)
    if env.get("WORLD_SIZE") and env["WORLD_SIZE"] != str(found.world_size):
        raise StartFailure(
            Line(
                "stderr", f"ValueError: WORLD_SIZE is {env['WORLD_SIZE']}, the rank table has {found.world_size} ranks"
            ),
            _backend_line(),
        )
    return found


def _servers(table: Mapping[str, Any], source: str) -> tuple[Server, ...]:
    listed = table.get("server_list")
    count = table.get("server_count")
    if not isinstance(listed, list) or not listed or not isinstance(count, str) or not count.isdigit():
        raise failure("Invalid server_count in ranktable file", source)
    if int(count) != len(listed):
        raise failure(
            f"Parameter server_count is {count} in ranktable file, which is not equal to server_list length in "
            f"ranktable file, which is {len(listed)}",
            source,
        )
    servers = tuple(_server(entry, source) for entry in listed)
    if len({len(server.devices) for server in servers}) > 1:
        raise failure("The number of devices in every server node is not equal in ranktable file.", source)
    ranks = [rank for server in servers for _, _, rank in server.devices]
    if ranks != list(range(len(ranks))):
        raise StartFailure(
            Line(
                "plog", "[Parse][ClusterInfo]rank id in the rank table is not consecutive", "topoinfo_ranktable.cc:214"
            ),
            Line("mindie", "Ranktable file is invalid. Please check json format!", source),
        )
    return servers


def _server(entry: Any, source: str) -> Server:  # noqa: ANN401 - any JSON
    if not isinstance(entry, dict) or not isinstance(entry.get("device"), list):
        raise failure("Ranktable file is invalid. Please check json format!", source)
    if not entry.get("container_ip"):
        raise failure("The containerIp in the server node is empty in ranktable file.", source)
    return Server(str(entry["container_ip"]), tuple(_device(device, source) for device in entry["device"]))


def _device(device: Any, source: str) -> tuple[int, str, int]:  # noqa: ANN401 - any JSON
    if not isinstance(device, dict):
        raise failure("Ranktable file is invalid. Please check json format!", source)
    numbers = {}
    for key, most, words in (
        ("device_id", 63, "Parameter device_id is {}, which is out of allow range [0, 63]."),
        ("rank_id", 511, "Parameter rankId in ranktable is {}, which is out of allow range [0, 511]."),
    ):
        value = device.get(key)
        if not isinstance(value, str) or not value.isdigit() or int(value) > most:
            raise failure(words.format(value), source)
        numbers[key] = int(value)
    try:
        address = ipaddress.IPv4Address(device.get("device_ip", ""))
    except ValueError:
        address = ipaddress.IPv4Address(0)
    if address == ipaddress.IPv4Address(0):
        raise failure("Parameter device_ip is invalid in ranktable file.", source)
    return numbers["device_id"], str(address), numbers["rank_id"]
