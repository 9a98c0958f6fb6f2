"""What is read of the service on one host, and how a host is asked over HTTP."""

from __future__ import annotations

from typing import TYPE_CHECKING

from runbook_lib.errors import UsageError
from runbook_lib.model import ProbeScript, Section
from runbook_lib.params import resolve_path
from runbook_lib.stages import logs
from runbook_lib.stages.push import bundle, source

if TYPE_CHECKING:
    from runbook_lib.params import Host, HostPaths, Params

HOME = "/usr/local/Ascend/mindie/latest/mindie-service"  # in every image so far
DEFAULT_CONFIG = f"{HOME}/conf/config.json"
LIBRARY = f"{HOME}/lib/libmindieservice_llm_engine.so"
SECURITY = f"{HOME}/security"  # the folder of the certificates in every default
# a first answer: so many times what 32 tokens take by the params' own weights of a step, for those that wait before it
_QUEUE, _TOKENS, _LEAST_S, _OVERHEAD_S = 30, 32, 20.0, 5.0
_REACH_TIMEOUT_S = 3.0


def file_names(paths: HostPaths) -> tuple[str, ...]:
    """Return the files that this stage writes on a host."""
    return (paths.config_json, paths.rank_table, paths.env_file, paths.start_script, f"{paths.service}/stop.sh")


def in_container(params: Params, *argv: str) -> tuple[str, ...]:
    """Return a command that runs in the container of a host."""
    return ("docker", "exec", params.container.name, *argv)


def _python(params: Params, name: str) -> tuple[str, ...]:
    """Return the beginning of a command that asks the service: over https it verifies by the CA that params name."""
    run = ("python3", "-c", bundle(name))
    if not (params.service.https and params.service.ca_file):
        return run
    place = resolve_path(params.service.ca_file)
    try:
        return ("env", f"RUNBOOK_CA={place.read_text(encoding='utf-8')}", *run)
    except (OSError, ValueError) as error:
        raise UsageError(
            f"service.ca_file {place} cannot be read: {error}",
            next_command=f"openssl x509 -in {place} -noout -subject",
        ) from error


def http_section(params: Params, key: str, method: str, url: str, timeout_s: float, *body_and_gate: str) -> Section:
    """Return a probe section that makes one HTTP request from the host and prints JSON; see push/http_call.py."""
    argv = (*_python(params, "http_call.py"), method, url, str(timeout_s), *body_and_gate)
    return Section(key, argv, timeout_s + 10)


# nobody listens: said at once, without starting Python for each question while the daemons load
_IF_LISTENED = (
    '(exec 3<>"/dev/tcp/$1/$2") 2>/dev/null || '
    '{ printf \'{"status": 0, "error": "not asked: nobody listens on %s:%s"}\\n\' "$1" "$2"; exit 0; }; '
    'shift 2; exec "$@"'
)


def _if_listened(section: Section, address: str, port: int) -> Section:
    """Return the section as one that is run only when a port accepts connections."""
    argv = ("bash", "-c", _IF_LISTENED, "bash", address, str(port), *section.argv)
    return Section(section.key, argv, section.timeout_s)


def ready_section(params: Params) -> Section:
    """Return the readiness read of the master's management port."""
    return http_section(params, "ready", "GET", ready_url(params), 5.0)


def base_url(params: Params, port: int) -> str:
    """Return the beginning of every address on one of the master's ports."""
    return f"{'https' if params.service.https else 'http'}://{params.master.service_ip}:{port}"


def ready_url(params: Params) -> str:
    """Return the address that answers 200 when the service is ready."""
    return f"{base_url(params, params.service.management_port)}/v2/health/ready"


def probe(params: Params, host: Host, paths: HostPaths) -> ProbeScript:
    """Read files, container, live card state, daemon, logs; on the master also readiness and real answers."""
    names = file_names(paths)
    pid_file = f"{paths.inside(paths.service)}/daemon.pid"
    sections = [
        Section("container", ("docker", "inspect", params.container.name)),
        Section("default", in_container(params, "cat", DEFAULT_CONFIG)),
        Section("library", in_container(params, "stat", "-c", "%a %n", LIBRARY)),
        *(Section(f"file.{name}", ("cat", name)) for name in names),
        Section("modes", ("stat", "-c", "%a %n", *names)),
        Section("owners", ("stat", "-c", "%u:%g %n", *names)),
        Section("started", ("cat", f"{paths.service}/started.sha256")),
        Section("alive", in_container(params, "sh", "-c", source("alive.sh"), "sh", pid_file)),
        logs.section(paths, lines=200),
    ]
    if params.service.https:
        sections.append(Section("tls", in_container(params, "find", "-L", SECURITY, "-type", "f")))
    for card in host.cards:
        on_card = (paths.hccn_tool, "-i", str(card.id))
        sections += [
            Section(f"ip.{card.id}", (*on_card, "-ip", "-g")),
            Section(f"net_health.{card.id}", (*on_card, "-net_health", "-g")),
        ]
    sections += _master_sections(params) if host == params.master else [_outside(params)]
    return ProbeScript(tuple(sections))


def _outside(params: Params) -> Section:
    """Return what another host asks: whether the business port of a ready master answers from outside."""
    url = f"{base_url(params, params.service.port)}/v1/models"
    return http_section(params, "outside", "GET", url, _REACH_TIMEOUT_S, "", ready_url(params))


def answer_timeout_s(params: Params) -> float:
    """Return how long the first answer may take: 58 s with the default weights; less where time runs faster."""
    service, factor = params.service, params.twin.time_factor if params.twin is not None else 1.0
    steps_s = (service.prefill_time_ms + _TOKENS * service.decode_time_ms) / 1000
    return round(max(_LEAST_S, _QUEUE * steps_s) / factor + _OVERHEAD_S, 1)


def _master_sections(params: Params) -> list[Section]:
    business = base_url(params, params.service.port)
    metrics = f"{base_url(params, params.service.metrics_port)}/metrics"
    gate = ready_url(params)
    longest = min(params.service.max_input_token_len, params.service.max_seq_len - 1)
    patience_s = answer_timeout_s(params)
    serving = (*_python(params, "serving_check.py"), business, params.model.name, str(longest), gate, str(patience_s))
    asked = (
        Section("serving", serving, 2 * patience_s + 60),
        http_section(params, "metrics", "GET", metrics, 5.0, "", gate),
    )
    address, port = params.master.service_ip, params.service.management_port
    return [
        ready_section(params),
        *(_if_listened(each, address, port) for each in asked),
        Section("listening", ("ss", "-Hlntp")),
    ]
