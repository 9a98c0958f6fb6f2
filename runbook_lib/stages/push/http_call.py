"""Make one HTTP request from a host and print what came as one line of JSON.

Usage: http_call.py METHOD URL TIMEOUT_S [BODY [GATE]]. With GATE the request is made only when a GET of GATE answers
200. RUNBOOK_CA holds the CA that an https service is verified by. Given to `python3 -c`, and imported by
serving_check.py; standard library only, Python 3.7 or newer.
"""

import http.client
import json
import os
import ssl
import sys
import time
import urllib.error
import urllib.request

LONGEST = 200_000
GATE_TIMEOUT_S = 3.0


def trusted():
    """Return the TLS context: the CA of the environment, and without one no verification."""
    if os.environ.get("RUNBOOK_CA"):
        return ssl.create_default_context(cadata=os.environ["RUNBOOK_CA"])
    return ssl._create_unverified_context()  # noqa: S323, SLF001 - the host asks its own service


def call(method, url, timeout, body=None):
    """Return {status, body, error}; status is 0 when no answer came."""
    said = {"status": 0, "body": "", "error": ""}
    request = urllib.request.Request(url, data=body, method=method, headers={"Content-Type": "application/json"})
    # cluster addresses never go through a proxy
    https = urllib.request.HTTPSHandler(context=trusted())
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), https)
    try:
        with opener.open(request, timeout=timeout) as answer:
            said.update(status=answer.status, body=answer.read(LONGEST).decode("utf-8", "replace"))
    except urllib.error.HTTPError as error:
        said.update(status=error.code, body=error.read(LONGEST).decode("utf-8", "replace"))
    except (OSError, ValueError, http.client.HTTPException) as error:
        said["error"] = str(error) or type(error).__name__
    return said


def main():
    """Print the answer, with the seconds that it took."""
    method, url, timeout = sys.argv[1:4]
    body = sys.argv[4].encode("utf-8") if len(sys.argv) > 4 else None
    gate = sys.argv[5] if len(sys.argv) > 5 else ""
    started = time.monotonic()
    body = body or None
    open_gate = not gate or call("GET", gate, GATE_TIMEOUT_S)["status"] == 200
    if open_gate:
        said = call(method, url, float(timeout), body)
    else:
        said = {"status": 0, "body": "", "error": "not asked: " + gate + " does not answer 200"}
    said["seconds"] = round(time.monotonic() - started, 3)
    print(json.dumps(said))


if __name__ == "__main__":
    main()
