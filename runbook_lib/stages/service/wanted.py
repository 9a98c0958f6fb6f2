"""The files that every host shall have: config.json, rank table, environment, and the scripts."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

from runbook_lib.ascend import environment, images, mindie_config, mindie_defaults, rank_table
from runbook_lib.ascend.environment import EnvVar
from runbook_lib.stages.push import source

if TYPE_CHECKING:
    from collections.abc import Mapping

    from runbook_lib.ascend.mindie_config import Json
    from runbook_lib.params import Host, HostPaths, Params
    from runbook_lib.stages.service.facts import HostFacts, ServiceFacts

STARTED_WITH = ("config.json", "rank_table.json", "service.env", "start.sh")
_SCRIPT_MODE = 0o750
_DATA_MODE = 0o640  # the service refuses config.json and rank table that others can read


def wanted_files(facts: ServiceFacts, params: Params, host: Host) -> dict[str, tuple[str, int]] | None:
    """Return path -> (text, mode) for one host; None while live IPs or the image's default are not known."""
    paths, seen = facts.paths[host.name], facts.hosts[host.name]
    table = wanted_rank_table(facts, params)
    config = wanted_config(params, host, paths, _default(params, seen))
    if table is None or config is None:
        return None
    texts = {
        paths.config_json: mindie_config.to_text(config),
        paths.rank_table: table,
        paths.env_file: environment.render_env_file(wanted_environment(params, host, paths)),
        paths.start_script: source("start.sh"),
        f"{paths.service}/stop.sh": source("stop.sh"),
    }
    return {path: (text, mode_of(path)) for path, text in texts.items()}


def mode_of(path: str) -> int:
    """Return the mode that a file of the service must have."""
    return _SCRIPT_MODE if path.endswith(".sh") else _DATA_MODE


def wanted_config(params: Params, host: Host, paths: HostPaths, default: Mapping[str, Any] | None) -> Json | None:
    """Return config.json over the image's default; None when that is not known, or of no known form."""
    if default is None:
        return None
    try:
        return mindie_config.render(default, _settings(params, host, paths))
    except TypeError:
        return None


def wanted_environment(params: Params, host: Host, paths: HostPaths) -> list[EnvVar]:
    """Return the daemon's environment on one host."""
    variables = environment.service_environment(
        image_tag=params.container.image,
        world_size=params.world_size,
        container_ip=host.service_ip,
        master_ip=params.master.service_ip,
        rank_table_path=paths.inside(paths.rank_table),
        config_path=paths.inside(paths.config_json),
        work_path=paths.inside(paths.plog),
        memory_fraction=params.service.npu_memory_fraction,
    )
    log = paths.inside(paths.mindie_log)
    where = "MindIE-LLM environment_variable"
    return [*variables, EnvVar("MINDIE_LOG_PATH", log, "logs outlive the container", where)]


def _default(params: Params, seen: HostFacts) -> Mapping[str, Any] | None:
    if seen.default_config.value is not None:
        return seen.default_config.value
    schema = images.image_facts(params.container.image).schema
    # a container that is there, or may be, has a default that we do not know; without one, ours is a preview
    return mindie_defaults.default_config(schema) if seen.container.state == "unset" and schema is not None else None


def _settings(params: Params, host: Host, paths: HostPaths) -> mindie_config.ServiceSettings:
    service = params.service
    everywhere = bool(service.listen_on_all_reason)
    return mindie_config.ServiceSettings(
        ip_address="0.0.0.0" if everywhere else host.service_ip,  # noqa: S104 - params say why
        allow_all_zero_ip=everywhere,
        https=service.https,
        model_name=params.model.name,
        weights_path=paths.inside(paths.weights),
        card_ids=tuple(card.id for card in host.cards),
        world_size=len(host.cards),
        max_seq_len=service.max_seq_len,
        max_input_token_len=service.max_input_token_len,
        max_prefill_tokens=service.max_prefill_tokens,
        max_prefill_batch_size=service.max_prefill_batch_size,
        max_batch_size=service.max_batch_size,
        max_iter_times=service.max_iter_times,
        max_queue_delay_us=service.max_queue_delay_us,
        prefill_time_ms=service.prefill_time_ms,
        decode_time_ms=service.decode_time_ms,
        max_link_num=service.max_link_num,
        port=service.port,
        management_port=service.management_port,
        metrics_port=service.metrics_port,
        multi_node=len(params.cluster.hosts) > 1,
        npu_mem_size=service.npu_mem_size,
        support_select_batch=service.support_select_batch,
        parallel=_parallel(params),
    )


def _parallel(params: Params) -> dict[str, int] | None:
    """Return the parallel sizes in words where the image knows the keys: 2.2.RC1 aborts when dp is not given."""
    given = params.service.parallel
    asked = given.model_dump() != type(given)().model_dump()
    if images.image_facts(params.container.image).schema != "2.x" and not asked:
        return None
    world = params.world_size
    sizes = {"dp": given.dp, "tp": given.tp or world // given.dp}
    return {**sizes, "moe_ep": given.moe_ep, "moe_tp": world // given.moe_ep}


def live_ips(facts: ServiceFacts, host: Host) -> dict[int, str]:
    """Return card -> address as it is, "" for one that has none or could not be read; empty for a host unreached."""
    seen = facts.hosts.get(host.name)
    readings = {card.id: seen.ips[card.id].value for card in host.cards} if seen is not None else {}
    return {card: reading.address if reading is not None else "" for card, reading in readings.items()}


def due_in_network(facts: ServiceFacts, params: Params) -> str:
    """Name a card whose live IP is not the one of the params: the network stage sets it, no table is made of it."""
    for host in params.cluster.hosts:
        ips = live_ips(facts, host)
        for card in host.cards if ips else ():
            live, unset = ips[card.id], facts.hosts[host.name].ips[card.id].state == "unset"
            if unset or (live and live != card.ip):
                has = live or "no address"
                return f"due in network: {host.name} card {card.id} has {has}, params say {card.ip}"
    return ""


def wanted_rank_table(facts: ServiceFacts, params: Params) -> str | None:
    """Return the table of the live addresses; of the params' while the network stage has to set some; None: unknown."""
    rows = []
    due = due_in_network(facts, params)
    for host in params.cluster.hosts:
        ips = {card.id: card.ip for card in host.cards} if due else live_ips(facts, host)
        if not ips or "" in ips.values() or host.name not in facts.hosts:
            return None
        rows.append(rank_table.RankHost(host.service_ip, tuple(ips.values()), host.service_ip, tuple(ips)))
    return rank_table.build(rows)


def stale(seen: HostFacts, paths: HostPaths) -> tuple[str, ...]:
    """Return the files that the daemon was started with in another form than lies there now, as far as was read."""
    if seen.started_with is None:
        return ()
    names = []
    for name in STARTED_WITH:
        path = f"{paths.service}/{name}"
        text = seen.files.get(path)
        changed = text is not None and seen.started_with.get(name) != hashlib.sha256(text.encode()).hexdigest()
        if changed or path in seen.missing:
            names.append(name)
    return tuple(names)


def start_unread(seen: HostFacts, paths: HostPaths) -> tuple[str, ...]:
    """Return the files without which it is not known whether the daemon runs with what lies there."""
    names = [name for name in STARTED_WITH if "text" in seen.unread(f"{paths.service}/{name}")]
    return (*names, *(["started.sha256"] if seen.started_with is None else []))
