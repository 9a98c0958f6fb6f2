"""Make one HTTP request from a host and print what came as one line of JSON.

Usage: http_call.py METHOD URL TIMEOUT_S [BODY]. Given to `python3 -c`; standard library only, Python 3.7 or newer.
"""

import http.client
import json
import sys
import time
import urllib.error
import urllib.request

LONGEST = 200_000


def main():
    """Print {status, body, seconds, error}; status is 0 when no answer came."""
    method, url, timeout = sys.argv[1:4]
    body = sys.argv[4].encode("utf-8") if len(sys.argv) > 4 else None
    request = urllib.request.Request(url, data=body, method=method, headers={"Content-Type": "application/json"})
    started = time.monotonic()
    said = {"status": 0, "body": "", "error": ""}
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # cluster addresses never go through a proxy
    try:
        with opener.open(request, timeout=float(timeout)) as answer:
            said.update(status=answer.status, body=answer.read(LONGEST).decode("utf-8", "replace"))
    except urllib.error.HTTPError as error:
        said.update(status=error.code, body=error.read(LONGEST).decode("utf-8", "replace"))
    except (OSError, ValueError, http.client.HTTPException) as error:
        said["error"] = str(error) or type(error).__name__
    said["seconds"] = round(time.monotonic() - started, 3)
    print(json.dumps(said))


main()
