"""The words of HCCL when the cards do not find each other (failures.md section 2 and rows 1, 2, 11, 15, 20, 26).

Standard library only: this runs inside the container.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from runbook_lib.twin.daemon_checks import Line, RankTable, StartFailure

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

DEFAULT_TIMEOUT_S = 120
TIMEOUT_RANGE = range(120, 7201)
_PORT = 16666
_SOURCE_PORT = 3234403008

EI0006 = (
    "Get_Socket_Timeout(EI0006): Getting socket times out. "
    "Reason: 1. The remote does not initiate a connect request. some NPUs in the cluster are abnormal.    "
    "2. The remote does not initiate a connect request because the collective communication operator is started too "
    "late or is not started by some NPU in the cluster.    "
    "3. The communication link is disconnected. (For example, the IP addresses are not on the same network segment or "
    "the TLS configurations are inconsistent.)\n"
    "        Solution: 1. Check the rank service processes with other errors or no errors in the cluster."
    "2. If this error is reported for all NPUs, check whether the time difference between the earliest and latest "
    "errors is greater than the connect timeout interval (120s by default). If so, adjust the timeout interval by "
    "using the HCCL_CONNECT_TIMEOUT environment variable."
    "3. Check the connectivity of the communication link between nodes. (For example, run the 'hccn_tool -i $devid "
    "-tls -g' command to check the TLS status of each NPU)."
)
_TABLE_HEAD = (
    "   |  dest_ip(user_rank)  |   dest_port   |  src_ip(user_rank)   |   src_port   |   MyRole   |   Status   |"
    "    TlsStatus   |"
)


def connect_timeout_s(env: Mapping[str, str]) -> int:
    """Return HCCL_CONNECT_TIMEOUT in emulated seconds; StartFailure when it is out of range."""
    text = env.get("HCCL_CONNECT_TIMEOUT", str(DEFAULT_TIMEOUT_S))
    if text.isdigit() and int(text) in TIMEOUT_RANGE:
        return int(text)
    raise StartFailure(
        Line("plog", f"[Init][EnvVarParam]HCCL_CONNECT_TIMEOUT[{text}] is invalid. except: [120, 7200]", "env.cc:391"),
        Line(
            "block",
            "Config_Error_Invalid_Environment_Variable(EI0001): "
            f"Value {text} for environment variable HCCL_CONNECT_TIMEOUT is invalid.",
        ),
    )


def check_device_ips(table: RankTable, cards: Mapping[str, Mapping[str, Any]]) -> None:
    """Compare this server's device IPs with the live ones. `cards`: by card id, as the resident process says."""
    for card, ip, _ in table.servers[table.own].devices:
        live = cards.get(str(card))
        if live is None:
            raise StartFailure(
                Line("plog", f"[Open][Tsd]Open TsdClient failed, devId[{card}]", "tsd_client.cc:97"),
                Line("stderr", f"RuntimeError: Invalid device ID {card}."),
            )
        if live["holders"]:
            raise StartFailure(Line("plog", f"[Open][Tsd]Open TsdClient failed, devId[{card}]", "tsd_client.cc:97"))
        if live["ip"] != ip:
            raise StartFailure(
                Line(
                    "plog",
                    f"[check][ip]fail, ret(129) the IP address({ip}) in the ranktable is inconsistent with the "
                    f"IP address({live['ip'] or '0.0.0.0'}) of the network adapter",
                    "rs_rdma.c:512",
                ),
                Line("block", "Invalid_Ranktable(EI0014): the cluster information in the rank table does not hold."),
            )


def link_timeout(pairs: Sequence[Mapping[str, Any]], timeout_s: int) -> StartFailure:
    """Return the failure of links that were not set up. `pairs` as the resident process names them."""
    lines: list[Line] = []
    for pair in pairs:
        role = 1 if pair["rank"] > pair["peer_rank"] else 0
        card = pair["card"]
        lines.append(
            Line(
                "plog",
                f"[Wait][LinkEstablish]wait socket establish timeout, role[{role}] rank[{pair['rank']}] "
                f"timeout[{timeout_s} s]",
                "hccl_socket_manager.cc:797",
            )
        )
        row = (
            f"   |  {pair['peer_ip']}({pair['peer_rank']})   |  {_PORT}  |   {pair['ip']}({pair['rank']})   |  "
            f"{_SOURCE_PORT + card}  |  {'client' if role else 'server'}  | time out |   "
            f"{'ENABLE' if pair['tls'] else 'DISABLE'}  | LinkInfo"
        )
        rows = (("624", f"   |  comm error, device[{card}]"), ("626", _TABLE_HEAD), ("583", row))
        lines += [Line("plog", text, f"hccl_socket_manager.cc:{number}") for number, text in rows]
    return StartFailure(*lines, Line("block", EI0006))


def missing_servers(table: RankTable, joined: Sequence[str], timeout_s: int) -> StartFailure:
    """Return the failure when servers of the rank table never came."""
    own = table.servers[table.own]
    late = [server for server in table.servers if server.container_ip not in joined]
    pairs = [
        {"rank": rank, "peer_rank": peer[2], "card": card, "ip": ip, "peer_ip": peer[1], "tls": 0}
        for server in late
        for (card, ip, rank), peer in zip(own.devices, server.devices, strict=True)
    ]
    timeout = link_timeout(pairs, timeout_s)
    if table.own != 0:
        return timeout
    ranks = [str(rank) for server in table.servers if server.container_ip in joined for _, _, rank in server.devices]
    source = "topoinfo_exchange_server.cc:277"
    return StartFailure(
        Line("plog", f"topo exchange server get socket timeout! timeout[{timeout_s} s]", source),
        Line("plog", f"need connect rankNum is [{table.world_size}]", source),
        Line("plog", f"connected rankinfo[LINE 0]: [{','.join(ranks)}]", source),
        *timeout.lines,
        Line("block", "Ranktable_Detect_Failed(EI0015): cluster information negotiation timed out."),
    )


def inconsistent(what: str) -> StartFailure:
    """Return the failure of servers that were started differently (`table`, `version` or `config`)."""
    if what == "config":
        return StartFailure(
            Line(
                "block",
                "(EI0005): The arguments for collective communication are inconsistent between ranks",
            )
        )
    return StartFailure(
        Line("plog", f"[RankConsistentImpl][CompareFrame]{what} of the ranks is not the same", "rank_consistent.cc:301")
    )
