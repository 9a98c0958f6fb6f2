"""Prompts and whole HTTP requests, prebuilt so that nothing is composed between time stamp and send.

Prefix caches compare whole blocks from the first token on, so a prompt whose first words are its own shares
no block with any other. After those words each prompt takes a slice of one common pool: a long prompt costs
no memory per request. The prompts of a trace with hash ids share exactly the blocks that the trace shares.
"""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from runbook_lib.errors import UsageError
from runbook_lib.load.tokens import one_token_words
from runbook_lib.load.traces import BLOCK_TOKENS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from runbook_lib.load.spec import PointSpec
    from runbook_lib.load.workload import Workload

# Short common English words: one token each, with the blank before them, in the usual byte-pair vocabularies.
# The count of tokens is still an estimate; the server's usage has the truth.
WORDS = tuple(
    """
    about above after again air all along also always and animal answer any apple area arm around ask away
    back ball bank base bear beat bed been before began begin behind below best better big bird black blood
    blue board boat body book both box boy bring brother build bus but buy call came car card care carry
    case cat cause center change check child circle city class clear close cold color come common corn cost
    could count country course cover cross cry cut dark day dear deep did differ direct dog done door down
    draw dream dress drink drive drop dry each ear early earth east easy eat edge egg eight end energy enough
    even ever every exact eye face fact fair fall family far farm fast father fear feel feet few field fight
    figure fill final find fine finger fire first fish five floor flow fly follow food foot for force form
    four free fresh friend from front fruit full game garden gas gave general get girl give glass gold gone
    good got grand grass gray great green ground group grow guess gun hair half hand happy hard hat have
    head hear heart heat heavy held help her here high hill him his history hit hold hole home hope horse
    hot hour house how huge human hundred hunt ice idea inch iron island job join jump just keep kept key
    kind king knew know lake land language large last late laugh law lay lead learn least leave
    left leg less let letter life lift light like line list listen little live long look lost love low made
    """.split()  # noqa: SIM905 - 256 quoted words would be a page long
)
_RADIX = 256
_OWN_WORDS = 4  # 256**4 distinct beginnings
# What a chat template adds around one user message, roughly.
TEMPLATE_TOKENS = 4


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where the requests go."""

    scheme: str
    host: str
    port: int
    path: str
    authority: str


def endpoint(url: str) -> Endpoint:
    """Complete a service URL to its chat completions path. Raises UsageError for what is no http(s) URL."""
    try:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        port = parts.port
    except ValueError as error:
        raise UsageError(f"--url {url!r}: {error}; expected something like http://192.0.2.10:1025") from error
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise UsageError(f"--url {url!r} is no http or https URL; expected something like http://192.0.2.10:1025")
    path = parts.path.rstrip("/")
    if not path.endswith("/chat/completions"):
        path += "/chat/completions" if path.endswith("/v1") else "/v1/chat/completions"
    if parts.query:
        path += f"?{parts.query}"
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    authority = host if port is None else f"{host}:{port}"
    return Endpoint(parts.scheme, parts.hostname, port or {"http": 80, "https": 443}[parts.scheme], path, authority)


def own_words(index: int, nonce: int, words: Sequence[str] = WORDS[:_RADIX]) -> list[str]:
    """Return the words that only this prompt begins with; the first one changes with every next index."""
    number = (index + nonce) % len(words) ** _OWN_WORDS
    own = []
    for _ in range(_OWN_WORDS):
        number, digit = divmod(number, len(words))
        own.append(words[digit])
    return own


@dataclass(frozen=True, slots=True)
class Turn:
    """An earlier turn of a conversation: what was asked, what was answered."""

    prompt: str
    answer: str


class Requests:
    """All requests of one load as bytes, by index.

    nonce: keeps loads apart from earlier ones; template_tokens: what the chat template adds to a prompt
    Raises UsageError for a tokenizer that cannot be used.
    """

    def __init__(
        self, spec: PointSpec, workload: Workload, *, nonce: int, template_tokens: int = TEMPLATE_TOKENS
    ) -> None:
        self._nonce = nonce
        self._workload = workload
        self._template = template_tokens
        self._words = one_token_words(spec.tokenizer, WORDS, _RADIX) if spec.tokenizer else WORDS[:_RADIX]
        target = endpoint(spec.url)
        self._head = (
            f"POST {target.path} HTTP/1.1\r\nHost: {target.authority}\r\n"
            "Content-Type: application/json\r\nAccept: text/event-stream\r\n"
            + (f"Authorization: Bearer {spec.api_key}\r\n" if spec.api_key else "")
        ).encode()
        rest = {
            "model": spec.model,
            "stream": True,
            "stream_options": {"include_usage": True},
            **({"ignore_eos": True} if spec.ignore_eos else {}),
            **spec.extra,
        }
        self._rest = f"{json.dumps(rest)[1:]}".encode()
        self._longest = max(BLOCK_TOKENS, *workload.inputs)
        source = random.Random(nonce)  # noqa: S311 - filler text, no secret
        pool = source.choices(self._words, k=2 * self._longest + 1024)
        self._offsets = [0]
        for word in pool:
            self._offsets.append(self._offsets[-1] + 1 + len(word))
        self._pool = "".join(f" {word}" for word in pool)
        self._source = source

    def prompt(self, index: int) -> str:
        """Return the user's text of one request; a later turn of a conversation adds only what is new."""
        wanted = max(_OWN_WORDS, self._workload.input_tokens(index) - self._template)
        blocks = self._workload.blocks[index] if self._workload.blocks else ()
        if not blocks:
            return self._unlike_any_other(index, wanted, self._source.randrange(len(self._offsets) - wanted))
        text = ""
        for block in blocks:
            tokens = min(BLOCK_TOKENS, wanted)
            text += self._unlike_any_other(block, max(_OWN_WORDS, tokens), block % (len(self._offsets) - tokens))
            wanted -= tokens
        return text if wanted <= 0 else text + self._unlike_any_other(index, max(_OWN_WORDS, wanted), 0)

    def _unlike_any_other(self, number: int, tokens: int, begin: int) -> str:
        own = "".join(f" {word}" for word in own_words(number, self._nonce, self._words))
        return own + self._pool[self._offsets[begin] : self._offsets[begin + tokens - _OWN_WORDS]]

    def build(self, index: int, history: Sequence[Turn] = ()) -> bytes:
        """Return one whole request: header and body. `history`: the turns before it in its conversation."""
        return self.wrap(index, self.prompt(index), history)

    def wrap(self, index: int, prompt: str, history: Sequence[Turn] = ()) -> bytes:
        """Return the request with a prompt that was made before."""
        earlier = b""
        for turn in history:
            for role, text in (("user", turn.prompt), ("assistant", turn.answer)):
                earlier += json.dumps({"role": role, "content": text}).encode() + b", "
        body = b'{"messages": [%s{"role": "user", "content": "%s"}], "max_tokens": %d, %s' % (
            earlier,
            prompt.encode(),  # words and blanks: nothing to escape
            self._workload.output_tokens(index),
            self._rest,
        )
        return b"%sContent-Length: %d\r\n\r\n%s" % (self._head, len(body), body)
