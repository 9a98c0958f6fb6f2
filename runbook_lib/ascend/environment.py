"""The environment of the MindIE daemon on one node, each variable with its reason and source."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING

from runbook_lib.ascend.images import BOTH_VARIABLES, image_facts
from runbook_lib.ascend.reading import to_int

if TYPE_CHECKING:
    from collections.abc import Mapping

_PAGE = "ModelZoo DeepSeek-R1 README"
_LLM = "MindIE-LLM environment_variable"
_MSP = "msprechecker rules"
_FIELD = "field experience"
_LARGEST_FRACTION = 1.0
_SHORTEST_CONNECT_S, _LONGEST_CONNECT_S = 120, 7200  # the range that HCCL accepts


@dataclass(frozen=True, slots=True)
class EnvVar:
    """One variable of the daemon's environment."""

    name: str
    value: str
    why: str
    source: str


def service_environment(  # noqa: PLR0913, PLR0917 - the values that differ between clusters, nothing else
    image_tag: str,
    world_size: int,
    container_ip: str,
    master_ip: str,
    rank_table_path: str,
    config_path: str,
    work_path: str,
    memory_fraction: float,
) -> list[EnvVar]:
    """Return the variables of one node, in a fixed order; only `container_ip` differs between nodes.

    world_size: cards of the whole cluster. work_path: where CANN writes its logs (`<work_path>/log`).
    memory_fraction: share of HBM for weights and KV cache. Raises ValueError for a fraction outside (0, 1]
    or a world size below 1.
    """
    if not 0.0 < memory_fraction <= _LARGEST_FRACTION or world_size < 1:
        raise ValueError(f"memory fraction {memory_fraction} or world size {world_size} is out of range")
    variables = [
        EnvVar("MIES_CONTAINER_IP", container_ip, "names this node in the rank table; the service binds it", _LLM),
        EnvVar("MASTER_IP", master_ip, "where the other nodes find the master", _LLM),
        EnvVar("RANKTABLEFILE", rank_table_path, "rank table, name up to MindIE 2.0", _PAGE),
        EnvVar("RANK_TABLE_FILE", rank_table_path, "rank table, name from MindIE 2.1 on", _LLM),
        EnvVar("MIES_CONFIG_JSON_PATH", config_path, "the configuration that this runbook wrote", _LLM),
        EnvVar("WORLD_SIZE", str(world_size), "cards of the whole cluster, not of this node", _PAGE),
        EnvVar("ATB_LLM_HCCL_ENABLE", "1", "HCCL, since LCCL stays inside one host", _PAGE),
        EnvVar("ATB_LLM_COMM_BACKEND", "hccl", "HCCL, since LCCL stays inside one host", _PAGE),
        EnvVar("HCCL_CONNECT_TIMEOUT", "7200", "seconds; the nodes finish loading at different times", _PAGE),
        EnvVar("HCCL_EXEC_TIMEOUT", "0", "a rank may wait for work as long as it takes", _PAGE),
        EnvVar("PYTORCH_NPU_ALLOC_CONF", "expandable_segments:True", "less fragmented HBM", _PAGE),
        EnvVar("NPU_MEMORY_FRACTION", f"{memory_fraction:g}", "share of HBM for weights and KV cache", _LLM),
        EnvVar("OMP_NUM_THREADS", "1", "more threads make the weights load far more slowly", _PAGE),
        EnvVar("MIES_SERVICE_MONITOR_MODE", "1", "without it /metrics answers 500", _LLM),
        EnvVar("ASCEND_WORK_PATH", work_path, "CANN writes plog below it, where diagnose looks for it", _FIELD),
        EnvVar("ASCEND_GLOBAL_LOG_LEVEL", "3", "CANN logs errors only", _LLM),
        EnvVar("MINDIE_LOG_TO_FILE", "1", "keeps MindIE's log for diagnose", _LLM),
        EnvVar("MINDIE_LOG_TO_STDOUT", "1", "the start is watched on the daemon's output", _LLM),
        EnvVar("MINDIE_LOG_LEVEL", "INFO", "the default level, said in words", _LLM),
    ]
    facts = image_facts(image_tag)
    if facts.expansion_aiv is True:
        why = "faster collectives; only for images from 2.1 on, on 2.0.T3 it can crash the daemon"
        variables.append(EnvVar("HCCL_OP_EXPANSION_MODE", "AIV", why, _MSP))
    return variables


def environment_problems(image_tag: str, environment: Mapping[str, str], world_size: int) -> list[str]:
    """Return what is wrong with the environment of a daemon (as read from /proc), whoever wrote it.

    world_size: cards of the whole cluster.
    """
    facts = image_facts(image_tag)
    found: list[str] = []
    if environment.get("HCCL_OP_EXPANSION_MODE") == "AIV" and facts.expansion_aiv is not True:
        found.append(f"HCCL_OP_EXPANSION_MODE=AIV is not known to be safe on {facts.version or image_tag} ({_MSP})")
    timeout = environment.get("HCCL_CONNECT_TIMEOUT")
    if timeout is not None:
        seconds = to_int(timeout)
        if seconds is None or not _SHORTEST_CONNECT_S <= seconds <= _LONGEST_CONNECT_S:
            found.append(f"HCCL_CONNECT_TIMEOUT={timeout} is outside 120..7200 seconds ({_PAGE})")
    if environment.get("WORLD_SIZE") not in {None, str(world_size)}:
        found.append(f"WORLD_SIZE={environment['WORLD_SIZE']}, but the cluster has {world_size} cards ({_PAGE})")
    tables = [facts.rank_table_variable] if facts.rank_table_variable else list(BOTH_VARIABLES)
    found.extend(f"{name} is not set; this image reads it ({_LLM})" for name in tables if not environment.get(name))
    if not environment.get("MIES_CONTAINER_IP"):
        found.append(f"MIES_CONTAINER_IP is not set; the node cannot find itself in the rank table ({_LLM})")
    if environment.get("MIES_SERVICE_MONITOR_MODE") != "1":
        found.append(f"MIES_SERVICE_MONITOR_MODE is not 1; /metrics answers 500 ({_LLM})")
    return found


def parse_env_file(text: str) -> dict[str, str]:
    """Return the variables of a file of exports, as a shell would set them; lines that it cannot read set nothing."""
    found: dict[str, str] = {}
    for line in text.splitlines():
        try:
            words = shlex.split(line, comments=True)
        except ValueError:
            continue
        for word in words[1:] if words[:1] == ["export"] else words[:1]:
            name, equals, value = word.partition("=")
            if equals:
                found[name] = value
    return found


def render_env_file(variables: list[EnvVar]) -> str:
    """Return a file for `.` or `source`: one quoted export per variable under a comment with its reason.

    Raises ValueError for a name that is no variable name, or a value with a line break or NUL.
    """
    lines: list[str] = []
    for variable in variables:
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", variable.name):
            raise ValueError(f"{variable.name!r} is not a variable name")
        if re.search(r"[\n\r\0]", variable.value):
            raise ValueError(f"{variable.name}: a value must be one line")
        why = " ".join(f"{variable.why} ({variable.source})".split())
        quoted = variable.value.replace("'", "'\\''")
        lines += [f"# {why}", f"export {variable.name}='{quoted}'"]
    return "\n".join(lines) + "\n"
