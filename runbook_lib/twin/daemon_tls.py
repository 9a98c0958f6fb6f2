"""The certificates of the emulated service: by the keys of config.json, each plane with keys of its own has its own.

What the real one says beside "Failed to check the tls certificate files" is not known; which of them it asks of a
client is neither, and none is asked for here.
"""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, Any

from runbook_lib.twin.daemon_checks import Line, StartFailure
from runbook_lib.twin.service_http import BUSINESS, MANAGEMENT, METRICS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

_PREFIXES = {BUSINESS: "tls", MANAGEMENT: "managementTls", METRICS: "metricsTls"}


def tls_contexts(server: Mapping[str, Any], file: Callable[[str], Path]) -> dict[str, ssl.SSLContext]:
    """Return the TLS context of every plane; none while https is off. `file` finds a path below the service's folder.

    Raises StartFailure when a file that a key names is missing, or is no certificate with its key.
    """
    if not server["httpsEnabled"]:
        return {}
    found: dict[str, ssl.SSLContext] = {}
    for plane, prefix in _PREFIXES.items():
        used = prefix if f"{prefix}Cert" in server else "tls"
        authorities = [f"{server.get('tlsCaPath', '').rstrip('/')}/{name}" for name in server.get(f"{used}CaFile", ())]
        places = [server.get(f"{used}Cert", ""), server.get(f"{used}Pk", ""), *authorities]
        missing = [place for place in places if not place or not file(place).is_file()]
        if missing:
            raise _failure()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        try:
            context.load_cert_chain(file(places[0]), file(places[1]), password="")
        except (OSError, ValueError):  # ssl.SSLError is an OSError
            raise _failure() from None
        found[plane] = context
    return found


def _failure() -> StartFailure:
    return StartFailure(
        Line("mindie", "Failed to check the tls certificate files.", "http_wrapper.cpp:141"),
        Line("mindie", "[MIE04E020407] [endpoint] Failed to start http wrapper", "http_wrapper.cpp:172"),
    )
