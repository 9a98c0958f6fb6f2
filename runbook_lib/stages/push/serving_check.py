"""Ask the service for one real answer, then every kind of question once; print what came as one line of JSON.

Usage: serving_check.py BASE_URL MODEL LONGEST_INPUT GATE TIMEOUT_S. Nothing is asked unless a GET of GATE answers 200,
and nothing more when the first answer has not come in TIMEOUT_S: a service that hangs is waited for once.
RUNBOOK_CA holds the CA that an https service is verified by. Given to `python3 -c` with http_call.py; standard library
only, Python 3.7 or newer.
"""

import json
import sys

from http_call import GATE_TIMEOUT_S, call

TOKENS = 8
QUESTION = "Which planet is the third from the sun? Answer in one word."
QUESTION_TOKENS = 32
REFUSED = (400, 413, 422)


def send(url, timeout, body=None):
    """Return what http_call.py says of one question."""
    if body is None:
        return call("GET", url, timeout)
    return call("POST", url, timeout, json.dumps(body).encode("utf-8"))


def events(text):
    """Return the objects of a stream, and whether it ended with its mark."""
    lines = [line[len("data:") :].strip() for line in text.splitlines() if line.startswith("data:")]
    return [json.loads(line) for line in lines if line != "[DONE]"], bool(lines) and lines[-1] == "[DONE]"


def plain(*, chat):
    """Judge an answer in one piece: text, and as many tokens as were asked for at most."""

    def judge(status, text):
        if status != 200:
            return False, "HTTP %d: %s" % (status, text[:120])
        answer = json.loads(text)
        choice = answer["choices"][0]
        said = (
            choice["text"]
            if not chat
            else "".join(choice["message"].get(key) or "" for key in ("reasoning_content", "content"))
        )
        tokens = answer["usage"]["completion_tokens"]
        return bool(said.strip()) and 0 < tokens <= TOKENS, "%d tokens" % tokens

    return judge


def streamed(*, chat):
    """Judge a stream: pieces of text, at most as many as tokens, and the end mark."""

    def judge(status, text):
        if status != 200:
            return False, "HTTP %d: %s" % (status, text[:120])
        found, ended = events(text)
        pieces = 0
        for event in found:
            for choice in event.get("choices", []):
                delta = choice.get("delta", {}) if chat else {"content": choice.get("text")}
                pieces += bool(delta.get("content") or delta.get("reasoning_content"))
        return ended and 0 < pieces <= TOKENS, "%d pieces%s" % (pieces, "" if ended else ", no end mark")

    return judge


def reasons(status, text):
    """Judge that thoughts come apart from the answer, or not at all."""
    if status != 200:
        return False, "HTTP %d: %s" % (status, text[:120])
    message = json.loads(text)["choices"][0]["message"]
    content = message.get("content") or ""
    return "<think>" not in content, "reasoning_content" if message.get("reasoning_content") else "no thoughts"


def refused(status, text):
    """Judge that a wrong request is refused in words, and not with a crash or with silence."""
    return status in REFUSED and bool(text.strip()), "HTTP %d: %s" % (status, text[:120])


def questions(model, longest):
    """Return (name, path, body, judge, what is expected)."""
    message = [{"role": "user", "content": "Name one planet."}]
    chat = {"model": model, "messages": message, "max_tokens": TOKENS}
    prompt = {"model": model, "prompt": "The third planet is", "max_tokens": TOKENS}
    long_input = {"model": model, "prompt": "word " * (longest + 64), "max_tokens": 1}
    answer, stream, no = (
        "text of at most %d tokens" % TOKENS,
        "a stream that ends with [DONE]",
        "HTTP 4xx with a reason",
    )
    return (
        ("chat", "/v1/chat/completions", chat, plain(chat=True), answer),
        ("chat-stream", "/v1/chat/completions", dict(chat, stream=True), streamed(chat=True), stream),
        ("completion", "/v1/completions", prompt, plain(chat=False), answer),
        ("completion-stream", "/v1/completions", dict(prompt, stream=True), streamed(chat=False), stream),
        ("reasoning", "/v1/chat/completions", chat, reasons, "thoughts in reasoning_content, not in the answer"),
        ("too-long-input", "/v1/completions", long_input, refused, no),
        ("wrong-model", "/v1/chat/completions", dict(chat, model=model + "-not-here"), refused, no),
        ("no-messages", "/v1/chat/completions", {"model": model}, refused, no),
    )


def main():
    """Ask everything, unless the service is not ready, or does not answer."""
    base, model, longest, gate = sys.argv[1:5]
    timeout = float(sys.argv[5])
    if send(gate, GATE_TIMEOUT_S)["status"] != 200:
        print(json.dumps({"error": "not asked: " + gate + " does not answer 200"}))
        return
    message = {"role": "user", "content": QUESTION}
    first = {"model": model, "messages": [message], "max_tokens": QUESTION_TOKENS, "stream": False}
    answer = send(base + "/v1/chat/completions", timeout, first)
    if answer["status"] == 0:
        error = "not asked: the first question had no answer in %.0f s" % timeout
        print(json.dumps({"answer": answer, "error": error}))
        return
    checks = []
    for name, path, body, judge, expected in questions(model, int(longest)):
        said = send(base + path, timeout, body)
        status, text = said["status"], said["body"] or said["error"]
        try:
            ok, said = judge(status, text)
        except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
            ok, said = False, "not of the known form (%s): %s" % (error, text[:120])
        checks.append({"name": name, "ok": ok, "said": said, "expected": expected})
        if status == 0:
            break  # a service that does not answer is not asked again and again
    print(json.dumps({"answer": answer, "checks": checks}))


main()
