"""The emulated `mindieservice_daemon`: a real process inside the container (mindie.md section 4).

It reads the real files that the runbook wrote, asks the resident process about the cards, and fails in the real one's
words. Standard library only. Durations are emulated seconds.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import signal
import socket
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from runbook_lib.errors import UsageError
from runbook_lib.twin import daemon_checks as checks
from runbook_lib.twin import daemon_hccl as hccl
from runbook_lib.twin.ask import AskError, ask
from runbook_lib.twin.daemon_checks import Files, Line, RankTable, StartFailure
from runbook_lib.twin.daemon_config import ConfigError, DaemonConfig, read_config
from runbook_lib.twin.daemon_log import DaemonLog
from runbook_lib.twin.daemon_tls import tls_contexts
from runbook_lib.twin.service_engine import EngineConfig
from runbook_lib.twin.service_http import BUSINESS, MANAGEMENT, METRICS, Service, ServiceConfig
from runbook_lib.twin.service_setup import setup_of

if TYPE_CHECKING:
    from collections.abc import Mapping
    from ssl import SSLContext

    from runbook_lib.capacity.setup import Setup

# Whether every server prints the success line is not sourced (mindie.md section 8): a switch
SLAVES_PRINT_SUCCESS = True
# a start is "11 min" in one report and "a long time" in the others (mindie.md section 4)
LOAD_S = 600.0
LOAD_STEPS = 20
HBM_MB = 65536
_FIRMWARE_MB = 3400
_POLL_S = 0.1  # real seconds between two questions to the resident process
_WATCH_S = 0.5
DEFAULT_HOME = "/usr/local/Ascend/mindie/latest/mindie-service"
T3 = ("2.0.T3",)  # 2.0.T3 and 2.0.T3.1
BROKEN_WITH_32 = "2.0.T3.1"
MANY_CARDS = 32


class Daemon:
    """One start of the daemon."""

    def __init__(self, env: Mapping[str, str]) -> None:
        self.env = env
        self.pid = os.getpid()
        self.home = env.get("MIES_INSTALL_PATH", DEFAULT_HOME)
        self.facts = self.ask(do="start")
        self.factor = float(self.facts["time_factor"])
        self.at_l0 = self.facts["level"] == "L0"
        self.log = DaemonLog(env, self.pid, self.place, float(self.facts["skew_s"]))
        self.files = Files(
            self.place,
            self.owner,
            uid=os.getuid() if self.facts["level"] == "L1a" else 0,
            check_permissions=env.get("MINDIE_CHECK_INPUTFILES_PERMISSION", "") != "0",
        )
        self.version = self._version()
        self.tls: dict[str, SSLContext] = {}

    def ask(self, **question: Any) -> dict[str, Any]:  # noqa: ANN401 - any JSON
        """Ask the resident process."""
        return ask({"question": "daemon", "pid": self.pid, "container": self.env.get("TWIN_CONTAINER", ""), **question})

    def place(self, path: str) -> Path:
        """Return where a path of the container is. At L0 the docker shim names the mounts in TWIN_MOUNTS."""
        for target, source in json.loads(self.env.get("TWIN_MOUNTS", "[]")):
            if path == target or path.startswith(f"{target}/"):
                return Path(source + path[len(target) :])
        return Path(path)

    def owner(self, path: Path) -> tuple[int, int] | None:
        """Return (uid, gid) of a file; None at L0, where files have no owner of their own."""
        if self.at_l0:
            return None
        if self.facts["level"] == "L1b":
            answer = self.ask(do="owner", path=str(path))
            return int(answer["uid"]), int(answer["gid"])
        status = path.stat()
        return status.st_uid, status.st_gid

    def _version(self) -> str:
        text = self.place("/usr/local/Ascend/mindie/latest/version.info").read_text(encoding="utf-8")
        return text.partition("Ascend-mindie : MindIE ")[2].splitlines()[0].strip()

    def sleep(self, seconds: float) -> None:
        """Let emulated seconds pass."""
        time.sleep(seconds / self.factor)

    def run(self) -> None:
        """Start, serve until told to stop; a failed start does not return."""
        self.log.say(f"g_mainPid = {self.pid}")
        if self.pid == 1:
            self.log.mindie("ERROR", "llm_daemon.cpp:402", _PID_1)
        try:
            service, table = self._start()
        except StartFailure as failed:
            self._fail(failed)
        except ConfigError as failed:
            self._fail(StartFailure(*(Line("mindie", text, "config_manager.cpp:140") for text in failed.lines)))
        asyncio.run(self._serve(service, table))

    def _start(self) -> tuple[ServiceConfig | None, RankTable | None]:
        """Check and load everything; return the service's settings, None on a slave."""
        checks.check_sourced(self.env, self.version)
        checks.check_library(self.place(f"{self.home}/lib/libmindieservice_llm_engine.so"))
        config = self._config()
        self.log.say(json.dumps({"ServerConfig": config.server, "BackendConfig": config.backend}, indent=4))
        table = self._early_table(config)
        master = table is None or table.own == 0
        planes = self._planes(config) if master else {}
        checks.check_shm(self.place, self.at_l0)
        weights = checks.check_weights(self.files, config.model["modelWeightPath"])
        if config.multi_node:
            table = checks.read_rank_table(self.files, self.env, self.version)
        devices = self._devices(config, table)
        if not self.at_l0:  # there is no /dev of a container's own
            checks.check_devices(self.place, devices)
        if table is not None and len(table.servers) > 1:
            self._join_all(table, config)
        setup = self._setup(weights, config, table)
        self._load(devices, config, table)
        if table is not None:
            self._rendezvous(table, config, "loaded")
        if not master:
            return None, table
        return self._service(config, setup, planes), table

    def _config(self) -> DaemonConfig:
        path = self.env.get("MIES_CONFIG_JSON_PATH") or f"{self.home}/conf/config.json"
        file = self.place(path)
        if not file.is_file():
            raise checks.failure(f"Check path: {path} failed, by: The path is not exist.", "file_utils.cpp:95")
        checks.check_mode(self.files, file, path, 0o640)
        return read_config(file.read_bytes(), self.version)

    def _early_table(self, config: DaemonConfig) -> RankTable | None:
        """Read the rank table once before its turn, only to know whether this server is the master."""
        if not config.multi_node:
            return None
        try:
            return checks.read_rank_table(self.files, self.env, self.version)
        except StartFailure:
            return None

    def _planes(self, config: DaemonConfig) -> dict[str, tuple[str, int]]:
        """Return where each plane listens; StartFailure when it cannot."""
        server = config.server
        self.tls = tls_contexts(server, lambda path: self.place(f"{self.home}/{path}"))
        if config.multi_node and config.backend.get("interNodeTLSEnabled", True):
            raise checks.failure("[MIE04E121107] [grpc] Failed to load the interNode TLS certificates.", "grpc:77")
        business = self.env.get("MIES_CONTAINER_IP") or server["ipAddress"]
        management = self.env.get("MIES_CONTAINER_MANAGEMENT_IP") or server.get("managementIpAddress") or business
        planes = {
            BUSINESS: (self._listen_address(business, config), int(server["port"])),
            MANAGEMENT: (self._listen_address(management, config), int(server.get("managementPort", 1026))),
            METRICS: (self._listen_address(management, config), int(server.get("metricsPort", 1027))),
        }
        for place in set(planes.values()):
            _check_free(place)
        return planes

    def _listen_address(self, address: str, config: DaemonConfig) -> str:
        own = str(self.facts["address"])
        if self.env.get("TWIN_NETWORK", "host") != "host":
            raise _http_failure()  # the host's address is not in a container with a network of its own
        if address == "0.0.0.0" and config.server["allowAllZeroIpListening"]:
            return own  # an emulated host is one loopback address
        if address in {own, self.facts["service_ip"]}:
            return own
        if address.startswith("127.0.0."):
            return address
        raise _http_failure()

    def _devices(self, config: DaemonConfig, table: RankTable | None) -> list[int]:
        """Return the cards of this server."""
        if table is not None:
            hccl.check_device_ips(table, self.facts["cards"])
            return [card for card, _, _ in table.servers[table.own].devices]
        for card in config.backend["npuDeviceIds"][0]:
            if str(card) not in self.facts["cards"]:
                raise StartFailure(Line("stderr", f"RuntimeError: Invalid device ID {card}."))
        return list(config.backend["npuDeviceIds"][0])

    def _join_all(self, table: RankTable, config: DaemonConfig) -> None:
        timeout_s = hccl.connect_timeout_s(self.env)
        deadline = time.monotonic() + timeout_s / self.factor
        joined = self._rendezvous(table, config, "hccl", deadline)
        if len(joined) < len(table.servers):
            raise hccl.missing_servers(table, joined, timeout_s)
        while pairs := self._broken_pairs(table):
            if time.monotonic() > deadline:
                raise hccl.link_timeout(pairs, timeout_s)
            time.sleep(_POLL_S)

    def _broken_pairs(self, table: RankTable) -> list[dict[str, Any]]:
        servers = [[list(device) for device in server.devices] for server in table.servers]
        return list(self.ask(do="links", servers=servers, own=table.own)["pairs"])

    def _rendezvous(
        self, table: RankTable, config: DaemonConfig, phase: str, deadline: float | None = None
    ) -> list[str]:
        """Wait until every server has reached a phase; return who has when the deadline (monotonic) is over."""
        servers = [server.container_ip for server in table.servers]
        settings = json.dumps([config.deploy["maxSeqLen"], config.schedule, config.model["modelName"]], sort_keys=True)
        marks = {
            "rank table CRC": hashlib.sha256(table.text).hexdigest(),
            "version": self.version,
            "config": hashlib.sha256(settings.encode()).hexdigest(),
        }
        was_there: set[str] = set()
        while True:
            answer = self.ask(do="join", address=servers[table.own], servers=servers, phase=phase, marks=marks)
            if answer["differs"]:
                raise hccl.inconsistent(answer["differs"][0])
            if len(answer["reached"]) == len(servers):
                return list(answer["reached"])
            if deadline is None and was_there - set(answer["joined"]):
                lost = sorted(was_there - set(answer["joined"]))
                raise checks.failure(_heartbeat_lost(lost), "grpc_communicator.cpp:233")
            was_there |= set(answer["joined"]) if deadline is None else set()
            if deadline is not None and time.monotonic() > deadline:
                return list(answer["reached"])
            time.sleep(_POLL_S)

    def _fraction(self) -> float:
        try:
            return float(self.env.get("NPU_MEMORY_FRACTION", "0.8"))
        except ValueError:
            return 0.0

    def _setup(self, weights: Mapping[str, Any], config: DaemonConfig, table: RankTable | None) -> Setup:
        """Return the deployment with the KV blocks that fit; StartFailure when the warm-up would not."""
        if "HCCL_OP_EXPANSION_MODE" in self.env and self.env["HCCL_OP_EXPANSION_MODE"] == "AIV" and self._is_t3():
            self._crash()
        if self.version.startswith("2.2.RC1") and table is not None and "dp" not in config.model:
            raise checks.failure("[MIE05E040001] [engine] LLMInferEngine failed to init LLMInferModels", "engine:63")
        try:
            setup = setup_of(config, weights, table, self._fraction(), self.version)
        except UsageError as wrong:
            raise checks.failure(f"[MIE05E040001] [engine] {wrong.message}", "engine:63") from None
        if not setup.memory.fits:
            raise StartFailure(
                Line("stderr", "RuntimeError: NPU out of memory. Tried to allocate 450.00 MiB"),
                Line(
                    "mindie",
                    "[MIE05E040001] [engine] LLMInferEngine failed to init LLMInferModels",
                    "infer_engine.cpp:63",
                ),
            )
        return setup

    def _is_t3(self) -> bool:
        return self.version.startswith(T3)

    def _crash(self) -> NoReturn:
        self.log.plog("aiv_executor.cc:118", "[AIV]aicore execution failed, error code 507015", module="RUNTIME")
        sys.stderr.write("Segmentation fault (core dumped)\n")
        sys.stderr.flush()
        os.kill(self.pid, signal.SIGKILL)
        raise AssertionError("killed")

    def _load(self, devices: list[int], config: DaemonConfig, table: RankTable | None) -> None:
        """Load the weights: progress lines, and HBM that fills."""
        most = int(HBM_MB * self._fraction()) - _FIRMWARE_MB
        for step in range(1, LOAD_STEPS + 1):
            self.sleep(LOAD_S / LOAD_STEPS)
            self.ask(do="hold", cards=devices, mb=most * step // LOAD_STEPS)
            percent = 100 * step // LOAD_STEPS
            text = f"load weights from {config.model['modelWeightPath']}: {percent}%"
            self.log.mindie("INFO", "weights.py:214", text, log="llmmodels")
            self.log.say(f"Loading safetensors checkpoint shards: {percent:3d}% Completed")
        while self.never_ends(table):
            time.sleep(3600)

    def never_ends(self, table: RankTable | None) -> bool:
        """Whether loading never ends (field experience: T3.1 on 32 cards); what it prints is not known: nothing."""
        return self.version == BROKEN_WITH_32 and table is not None and table.world_size >= MANY_CARDS

    def _service(self, config: DaemonConfig, setup: Setup, planes: dict[str, tuple[str, int]]) -> ServiceConfig:
        return ServiceConfig(
            model=config.model["modelName"],
            engine=EngineConfig(setup, setup.memory.blocks, self.factor),
            monitor=self.env.get("MIES_SERVICE_MONITOR_MODE") == "1",
            version=self.version,
            planes=planes,
            tls=self.tls,
        )

    async def _serve(self, settings: ServiceConfig | None, table: RankTable | None) -> None:
        """Serve until SIGTERM or SIGINT."""
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        service = None
        if settings is not None:
            service = Service(settings, lambda text: self.log.mindie("ERROR", "infer_handler.cpp:91", text))
            try:
                await service.start()
            except OSError:
                self._fail(_bind_failure())
        if settings is not None or SLAVES_PRINT_SUCCESS:
            self.log.say("Daemon start success!")
        watch = asyncio.create_task(self._watch(service, table)) if table is not None else None
        await stop.wait()
        self.log.say("Daemon is killing, please wait about 10 seconds...")
        if watch is not None:
            watch.cancel()
        if service is not None:
            await service.close()
        self.log.say("Daemon is killing...")

    async def _watch(self, service: Service | None, table: RankTable) -> None:
        """Notice that another server's daemon has died."""
        servers = [server.container_ip for server in table.servers]
        while True:
            await asyncio.sleep(_WATCH_S)
            try:
                answer = await asyncio.to_thread(
                    self.ask, do="join", address=servers[table.own], servers=servers, phase="ready", marks={}
                )
            except AskError:
                continue
            if lost := [address for address in servers if address not in answer["joined"]]:
                self.log.mindie("ERROR", "grpc_communicator.cpp:233", _heartbeat_lost(lost))
                if service is not None:
                    service.healthy = False
                return

    def _fail(self, failed: StartFailure) -> NoReturn:
        """Write the reasons, then end as the real one does: the process group is killed."""
        for line in failed.lines:
            if line.sink == "mindie":
                self.log.mindie("ERROR", line.source, line.text)
            elif line.sink == "plog":
                self.log.plog(line.source, line.text)
            elif line.sink == "block":
                self.log.cann_block(line.text)
            else:
                sys.stderr.write(f"{line.text}\n")
        sys.stderr.flush()
        self.log.mindie("ERROR", "endpoint.cpp:37", "[MIE04E02011C] [endpoint] Failed to start endpoint")
        prefix = "ERR: " if self.version.startswith("1.") else ""
        self.log.say(f"{prefix}Failed to init endpoint! Please check the service log or console output.")
        self.log.say("Killed")
        if os.getpgrp() == self.pid:
            os.killpg(self.pid, signal.SIGKILL)
        os.kill(self.pid, signal.SIGKILL)
        os._exit(137)  # PID 1 of a container cannot kill itself


_PID_1 = "[MIE04E01011C] [daemon] Failed to set process group. errno is 2"


def _heartbeat_lost(lost: list[str]) -> str:
    return f"[MIE04E120414] [grpc] Heartbeat of the slave is lost: {', '.join(lost)}"


def _http_failure(*before: Line) -> StartFailure:
    return StartFailure(
        *before, Line("mindie", "[MIE04E020407] [endpoint] Failed to start http wrapper", "http_wrapper.cpp:172")
    )


def _bind_failure() -> StartFailure:
    occupied = "Management or Business or Metrics Http server listen port is occupied"
    return _http_failure(
        Line("mindie", "Socket bind failed, bind_result is -1. Address already in use", "http_server.cpp:64"),
        Line("mindie", occupied, "http_wrapper.cpp:165"),
    )


def _check_free(place: tuple[str, int]) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(place)
        except OSError:
            raise _bind_failure() from None


def main() -> None:
    """Run the daemon with the environment of this process."""
    if os.getpid() != 1 and os.getpgrp() != os.getpid() and os.getsid(0) != os.getpid():
        os.setpgid(0, 0)  # so that a failed start kills what it started, and nobody else
    Daemon(os.environ).run()


if __name__ == "__main__":
    main()
