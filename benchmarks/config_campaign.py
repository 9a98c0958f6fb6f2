"""Random configurations: what the runbook says before a start equals what the twin's daemon does, in every case.

    python benchmarks/config_campaign.py [--count 500] [--seed 1] [--show 10] [--json]

Each case draws settings, legal and illegal: image, hosts, weights, lengths, batch sizes, ports, parallel sizes, https,
0.0.0.0, shared memory, environment. The verdict of the runbook is pure: params load, image table, rules of the
configuration and of the memory, environment. The other verdict is that of the daemon's own checks, which share no code
with them, on the real files and in process: it starts and answers, or it fails, never comes up, or can stand still.
Prints every disagreement and exits 1 when there is one.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, cast

from runbook_lib.ascend import environment, images, mindie_config, mindie_defaults
from runbook_lib.capacity.checks import longest_recompute
from runbook_lib.errors import ParamsError
from runbook_lib.model import Verdict
from runbook_lib.params import HostPaths, load_params
from runbook_lib.stages import service
from runbook_lib.twin import daemon_checks
from runbook_lib.twin.container_options import parse_run
from runbook_lib.twin.daemon import Daemon
from runbook_lib.twin.daemon_checks import Files, Line, RankTable, StartFailure
from runbook_lib.twin.daemon_config import ConfigError, DaemonConfig
from runbook_lib.twin.images import default_config
from runbook_lib.twin.weights_repo import build_repository

if TYPE_CHECKING:
    from runbook_lib.capacity.rules import Rules
    from runbook_lib.capacity.setup import Setup

ROOT = Path(__file__).parents[1]
SHAPES = {2: "twin-2x8-direct", 4: "twin-4x8-switch"}
OWN = "127.86.30.1"
SERVICE = "/var/lib/ascend-runbook/service"


@dataclass
class Draw:
    """One case: values by their name in params, and what is edited in the environment besides."""

    hosts: int
    overrides: dict[str, Any]
    env: dict[str, str | None] = field(default_factory=dict)

    def get(self, name: str, default: Any) -> Any:  # noqa: ANN401 - any value of params
        """Return a value of the case, or the one of the shape's file."""
        return self.overrides.get(name, default)


def draw(rng: random.Random) -> Draw:
    """Draw one case: mostly legal settings, and in two of three one to three that may be wrong."""
    hosts = rng.choice([2, 2, 4])
    version = rng.choice(images.known_versions())
    length = rng.choice([2560, 4096, 8192, 16384, 32768, 65536])
    inputs = rng.choice([length // 4, length // 2, length])
    batch = rng.choice([8, 64, 200, 512])
    overrides: dict[str, Any] = {
        "container.image": f"mindie:{version}-800I-A2-py311-openeuler24.03-lts",
        "service.max_seq_len": length,
        "service.max_input_token_len": inputs,
        "service.max_prefill_tokens": rng.choice([length, length, max(inputs, length // 2)]),
        "service.max_iter_times": rng.choice([512, length // 4, length // 2]),
        "service.max_batch_size": batch,
        "service.max_prefill_batch_size": rng.choice([4, batch // 4, batch]),
        "service.max_link_num": rng.choice([100, 300, 1000]),
        "service.npu_memory_fraction": rng.choice([0.8, 0.9, 0.92, 0.95, 0.97]),
    }
    case = Draw(hosts, overrides)
    for _ in range(rng.choice([0, 1, 1, 2, 3])):
        _spoil(rng, case)
    return case


def _spoil(rng: random.Random, case: Draw) -> None:
    world = 8 * case.hosts
    choices: dict[str, list[Any]] = {
        "service.max_seq_len": [0, 1, 2048, 131072, 1_000_000, 4_194_304],
        "service.max_input_token_len": [0, 1, 4096, 32768, 4_194_304, 4_194_305],
        "service.max_prefill_tokens": [0, 512, 2048, 262144, 4_194_304, 4_194_305],
        "service.max_prefill_batch_size": [0, 1, 4096, 819_201],
        "service.max_batch_size": [0, 1, 2, 4096, 819_200, 819_201],
        "service.max_iter_times": [0, 1, 32768, 65537],
        "service.max_queue_delay_us": [0, 499, 500, 1_000_000, 1_000_001],
        "service.prefill_time_ms": [0, 1000, 1001],
        "service.decode_time_ms": [0, 1000, 1001],
        "service.max_link_num": [0, 1, 1001, 4096, 4097],
        "service.npu_memory_fraction": [0.3, 0.5, 0.62, 0.65, 0.7, 1.0],
        "service.npu_mem_size": [-1, 0, 1, 4, 8, 16],
        "service.port": [80, 1023, 1024, 1026, 65535, 65536],
        "service.management_port": [1023, 1025, 65535],
        "service.metrics_port": [0, 1025, 1030],
        "service.https": [True, False],
        "service.support_select_batch": [True, False],
        "service.listen_on_all_reason": ["", "a test on an isolated network"],
        "service.parallel": [
            {"dp": 1, "tp": world, "moe_ep": 1}, {"dp": 2, "tp": world // 2, "moe_ep": 4},
            {"dp": 4, "tp": world // 4, "moe_ep": world}, {"dp": 3, "tp": 5, "moe_ep": 1},
            {"dp": 2, "tp": world, "moe_ep": 1}, {"dp": 1, "tp": 0, "moe_ep": 3},
        ],
        "model.format": ["bf16", "w8a8"],
        "container.shm_size": ["64m", "512m", "1g", "32g", "500g"],
    }  # fmt: skip
    if rng.random() < 0.15:  # noqa: PLR2004 - the share of cases with another environment
        name, value = rng.choice([
            ("WORLD_SIZE", "8"), ("HCCL_CONNECT_TIMEOUT", "60"), ("HCCL_CONNECT_TIMEOUT", "7200"),
            ("HCCL_OP_EXPANSION_MODE", "AIV"), ("RANKTABLEFILE", None), ("RANK_TABLE_FILE", None),
            ("MIES_CONTAINER_IP", None),
        ])  # fmt: skip
        # AIV is known to crash 2.0.T3 and to be fine from 2.1 on; of the images between nobody says anything
        version = images.image_facts(case.overrides["container.image"])
        if value != "AIV" or version.expansion_aiv or (version.version or "").startswith("2.0.T3"):
            case.env[name] = value
        return
    name = rng.choice(list(choices))
    case.overrides[name] = rng.choice(choices[name])


# -- the runbook's verdict ------------------------------------------------------------------------------------------


def _overrides(case: Draw) -> dict[str, Any]:
    flat = dict(case.overrides)
    for key, value in flat.pop("service.parallel", {}).items():
        flat[f"service.parallel.{key}"] = value
    return flat


def ours(case: Draw) -> list[str]:
    """Return why the runbook says that this does not come up, without a host: nothing when it does."""
    try:
        params = load_params(ROOT / "params" / f"{SHAPES[case.hosts]}.yaml", _overrides(case))
    except ParamsError as error:
        return [f"params: {str(error).splitlines()[-1][:160]}"]
    image, host = params.container.image, params.master
    found = [
        f"image: {each.what}"
        for each in images.image_problems(image, len(params.cluster.hosts), params.model.format)
        if each.verdict is Verdict.FAIL
    ]
    schema = images.image_facts(image).schema
    assert schema is not None  # noqa: S101 - only known images are drawn
    paths = HostPaths.of(params)
    config = service.wanted_config(params, host, paths, mindie_defaults.default_config(schema))
    assert config is not None  # noqa: S101 - our own default has the known form
    variables = _edited({each.name: each.value for each in service.wanted_environment(params, host, paths)}, case)
    found += [f"{each.key}: {each.why}" for each in service.config_problems(config, params, _fraction(variables))]
    found += environment.environment_problems(image, variables, params.world_size)
    return found


def _edited(variables: dict[str, str], case: Draw) -> dict[str, str]:
    merged: dict[str, str | None] = {**variables, **case.env}
    return {name: value for name, value in merged.items() if value is not None}


def _fraction(variables: dict[str, str]) -> float:
    return float(variables.get("NPU_MEMORY_FRACTION", "0.8"))


# -- the daemon's verdict -------------------------------------------------------------------------------------------


class Quiet:
    """Takes what the daemon logs."""

    def __getattr__(self, _name: str) -> Any:  # noqa: ANN401 - say, mindie, plog, cann_block
        return lambda *_args, **_words: None


class InProcess(Daemon):
    """The daemon's own checks, in a folder instead of a container, with nobody to wait for."""

    def __init__(self, folder: Path, env: dict[str, str], version: str, case: Draw) -> None:
        self.env = env
        self.pid = 1
        self.home = "/home"
        self.folder = folder
        cards = {str(card): {"ip": f"192.168.11.{100 + card}", "holders": []} for card in range(8)}
        self.facts = {"address": OWN, "service_ip": OWN, "cards": cards, "level": "L1a"}
        self.factor = 1e9
        self.at_l0 = True
        self.log = cast("Any", Quiet())
        self.files = Files(self.place, lambda _path: (0, 0))
        self.version = version
        self.case = case
        self.setup: Setup | None = None

    def place(self, path: str) -> Path:
        """Return where a path of the container is in the folder."""
        return self.folder / path.lstrip("/")

    def ask(self, **question: Any) -> dict[str, Any]:  # noqa: ANN401 - any JSON
        """Refuse: there is no resident process."""
        raise AssertionError(f"nobody to ask {question}")

    def _join_all(self, table: RankTable, config: DaemonConfig) -> None:
        from runbook_lib.twin.daemon_hccl import connect_timeout_s  # noqa: PLC0415 - the one check of the joining

        del table, config
        connect_timeout_s(self.env)

    def _rendezvous(self, *_args: Any, **_words: Any) -> list[str]:  # noqa: ANN401 - nobody to meet
        return []

    def _load(self, devices: list[int], config: DaemonConfig, table: RankTable | None) -> None:
        del devices, config
        if self.never_ends(table):
            raise StartFailure(Line("stderr", "loading never ends"))

    def _setup(self, weights: Any, config: DaemonConfig, table: RankTable | None) -> Setup:  # noqa: ANN401 - as there
        self.setup = super()._setup(weights, config, table)
        return self.setup

    def _crash(self) -> NoReturn:
        raise StartFailure(Line("stderr", "Segmentation fault (core dumped)"))

    def verdict(self) -> str:
        """Return "" when it starts and answers for ever, else what happens."""
        try:
            self._start()
        except StartFailure as failed:
            return failed.lines[0].text
        except ConfigError as failed:
            return failed.lines[0]
        assert self.setup is not None  # noqa: S101 - a start without a failure has one
        return _stands_still(self.setup)


def _stands_still(setup: Setup) -> str:
    """Say when requests that are accepted can stop for ever: a sequence without room, or the recompute dead end."""
    rules, blocks = setup.rules, setup.memory.blocks
    if ceil(rules.max_seq_len / rules.block_size) > blocks:
        return "a sequence of maxSeqLen never finishes"
    longest = longest_recompute(setup)
    preempted = _need(rules, longest) * rules.max_batch_size > blocks
    return "recompute dead end" if rules.prefill_budget < longest and preempted else ""


def _need(rules: Rules, tokens: int) -> int:
    return ceil((tokens + rules.lookahead) / rules.block_size)


def theirs(case: Draw, folder: Path) -> str:
    """Return what the daemon does with this case; "" for a service that starts and answers."""
    image = str(case.overrides["container.image"])
    version = image.partition(":")[2].partition("-800I")[0]
    weights_format = str(case.get("model.format", "w8a8"))
    if parse_run(["--shm-size", case.get("container.shm_size", "500g"), image]).shm_bytes < daemon_checks.SHM_NEEDED:
        return "The futex facility returned an unexpected error code."
    config = mindie_config.render(default_config(version), _settings(case, version, weights_format))
    _write(folder / "config.json", mindie_config.to_text(config))
    _write(folder / "table.json", _table(case.hosts))
    env = {
        "MINDIE_LLM_HOME_PATH": "x", "MIES_INSTALL_PATH": "/home", "ASCEND_TOOLKIT_HOME": "x", "ATB_HOME_PATH": "x",
        "ATB_SPEED_HOME_PATH": "x", "MIES_CONFIG_JSON_PATH": "/config.json", "RANKTABLEFILE": "/table.json",
        "RANK_TABLE_FILE": "/table.json", "MIES_CONTAINER_IP": OWN, "WORLD_SIZE": str(8 * case.hosts),
        "HCCL_CONNECT_TIMEOUT": "7200", "MIES_SERVICE_MONITOR_MODE": "1",
        "NPU_MEMORY_FRACTION": str(case.get("service.npu_memory_fraction", 0.95)),
    }  # fmt: skip
    if case.env.get("RANKTABLEFILE", "") is None or case.env.get("RANK_TABLE_FILE", "") is None:
        gone = next(name for name, value in case.env.items() if value is None and name in env)
        del env[gone]
    return InProcess(folder, _edited(env, case), version, case).verdict()


def _settings(case: Draw, version: str, weights_format: str) -> mindie_config.ServiceSettings:
    """Return the settings of the case as they are, whatever params say to them."""
    value = case.get
    everywhere = bool(value("service.listen_on_all_reason", ""))
    parallel = value("service.parallel", None)
    world = 8 * case.hosts
    sizes = None
    old = version.startswith(("1.", "2.0.T"))
    if parallel is not None and (not old or parallel != {"dp": 1, "tp": world, "moe_ep": 1}):
        sizes = parallel
    if sizes is None and (not old or parallel is not None):
        sizes = {"dp": 1, "tp": world, "moe_ep": 1}
    return mindie_config.ServiceSettings(
        ip_address="0.0.0.0" if everywhere else OWN,  # noqa: S104 - one of the cases
        allow_all_zero_ip=everywhere,
        https=bool(value("service.https", default=None)),
        model_name="deepseek-r1",
        weights_path=f"/{weights_format}",
        card_ids=tuple(range(8)),
        world_size=8,
        max_seq_len=value("service.max_seq_len", 32768),
        max_input_token_len=value("service.max_input_token_len", 16384),
        max_prefill_tokens=value("service.max_prefill_tokens", 32768),
        max_prefill_batch_size=value("service.max_prefill_batch_size", 50),
        max_batch_size=value("service.max_batch_size", 512),
        max_iter_times=value("service.max_iter_times", 16384),
        max_queue_delay_us=value("service.max_queue_delay_us", 5000),
        prefill_time_ms=value("service.prefill_time_ms", 150),
        decode_time_ms=value("service.decode_time_ms", 50),
        max_link_num=value("service.max_link_num", 1000),
        port=value("service.port", 1025),
        management_port=value("service.management_port", 1026),
        metrics_port=value("service.metrics_port", 1027),
        npu_mem_size=value("service.npu_mem_size", -1),
        support_select_batch=bool(value("service.support_select_batch", default=None)),
        parallel=sizes,
    )


def _table(hosts: int) -> str:
    servers = []
    for number in range(hosts):
        devices = [
            {
                "device_id": str(card),
                "device_ip": f"192.168.{11 + number}.{100 + card}",
                "rank_id": str(8 * number + card),
            }
            for card in range(8)
        ]
        address = OWN if number == 0 else f"127.86.30.{number + 1}"
        servers.append({"server_id": address, "container_ip": address, "device": devices})
    return json.dumps({"version": "1.0", "status": "completed", "server_count": str(hosts), "server_list": servers})


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
    path.chmod(0o640)


def prepare(folder: Path) -> None:
    """Lay down what every start needs: weights of both formats, and the engine's library."""
    for weights_format in ("w8a8", "bf16"):
        place = folder / weights_format
        build_repository(place, weights_format=weights_format, weights_bytes=1_000_000)
        for path in place.iterdir():
            path.chmod(0o640)
        place.chmod(0o750)
    library = folder / "home/lib/libmindieservice_llm_engine.so"
    library.parent.mkdir(parents=True)
    library.touch()
    library.chmod(0o440)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--show", type=int, default=10, help="disagreements that are shown in full")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of text")
    asked = parser.parse_args()
    rng = random.Random(asked.seed)  # noqa: S311 - repeatable draws, no secret
    wrong: list[dict[str, Any]] = []
    kinds: Counter[str] = Counter()
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="config-campaign-") as name:
        folder = Path(name)
        prepare(folder)
        for number in range(asked.count):
            case = draw(rng)
            said, does = ours(case), theirs(case, folder)
            kinds["refused by both" if said and does else "fine for both" if not said and not does else "differs"] += 1
            if bool(said) != bool(does):
                wrong.append(
                    {"case": number, "overrides": case.overrides, "env": case.env, "ours": said, "daemon": does}
                )
    seconds = time.monotonic() - began
    if asked.json:
        print(json.dumps({"ok": not wrong, "failures": wrong, "cases": asked.count, **kinds}))
        return 1 if wrong else 0
    for each in wrong[: asked.show]:
        print(f"case {each['case']}: {each['overrides']} {each['env']}")
        print(f"   runbook: {'; '.join(each['ours'][:3]) or 'comes up'}\n   daemon:  {each['daemon'] or 'comes up'}")
    print(f"{asked.count - len(wrong)} of {asked.count} verdicts agree ({dict(kinds)}), {seconds:.1f} s")
    return 1 if wrong or not kinds["refused by both"] or not kinds["fine for both"] else 0


if __name__ == "__main__":
    sys.exit(main())
