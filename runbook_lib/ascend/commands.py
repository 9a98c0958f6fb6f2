"""Command lines as they stand in a terminal capture: prompts, loops, pipes; what each one would print."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING

from runbook_lib.ascend.reading import to_int

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

MAX_STEPS = 512  # a loop over more than this is not one over cards
_ENV = r"(?:\([^()\s]{1,40}\)\s*)?"  # what conda puts before a prompt
_PROMPTS = (
    re.compile(
        rf"\s*{_ENV}\[(?:[\d:]+ )?[\w.-]+@(?P<host>[\w.-]+)(?:[ :][^\]]*)?\]\s*[#$](?:\s*(?P<command>\S.*))?\s*"
    ),
    re.compile(rf"\s*{_ENV}[A-Za-z_][\w.-]*@(?P<host>[\w.-]+)[: ]\s?[^#$\s]*\s?[#$](?:\s*(?P<command>\S.*))?\s*"),
    re.compile(r"\s*(?P<host>[A-Za-z][\w.-]*):(?:~|/)\S* ?[#$](?:\s+(?P<command>\S.*))?\s*"),
    re.compile(r"\s*(?:ba|z|c|k)?sh-\d[\d.]*[#$](?P<host>)(?:\s+(?P<command>\S.*))?\s*"),
    re.compile(r"\s*(?P<host>)(?:/[\w.-]+)+/?[#$]\s+(?P<command>\S.*)"),  # only the folder
    re.compile(r"\s*\$(?P<host>)(?:\s+(?P<command>\S.*))?\s*"),
    re.compile(r"\++ (?P<host>)(?P<command>(?:\S*/)?(?:hccn_tool|npu-smi|docker|cat|echo)\s.*)"),
)
_BARE = re.compile(
    r"\s*(?:#\s*|sudo\s+(?:-n\s+)?)?(?P<command>(?:\S*/)?(?:hccn_tool\s+-|npu-smi\s+(?:info|set|-v)\b"
    r"|docker\s+(?:version|info|ps|images|inspect|container|image)\b|cat\s+/\S)|for\s+\w+\s+in\s|for\s*\(\()"
)
_GET_WORD = re.compile(r"-\w+|address|pkt|inet6|loopback|[0-9a-f.:]*\d[0-9a-f.]*|\$\{?\w+\}?", re.IGNORECASE)
_QUIET = frozenset({
    "cd", "export", "source", ".", "mkdir", "clear", "set", "unset", "chmod", "chown", "sleep", "exit", "logout",
    "alias", "true", "umask", "reset", "wait", "su",
})  # fmt: skip
_PLAIN = frozenset({"hostname", "date", "whoami", "pwd", "uname", "nproc", "arch"})
_PASSING = frozenset({"tee", "cat", "less", "more"})  # a pipe through these shows everything
_FILES = (
    (re.compile(r"hccn\.conf$"), "hccn.conf", ""),
    (re.compile(r"firmware/version\.info$"), "versions", "firmware"),
    (re.compile(r"driver/version\.info$"), "versions", "driver"),
    (re.compile(r"os-release$"), "versions", "os"),
    (re.compile(r"ascend_install\.info$"), "versions", "install"),
    (re.compile(r"(?:install\.info|version\.info|version\.cfg)$"), "versions", ""),
    (re.compile(r"(?:rank_?table|hccl_?\w*)[\w.-]*\.json$", re.IGNORECASE), "rank-table", ""),
    (re.compile(r"(?:plog|device)-\d+_\d+\.log$|/plog/"), "plog", ""),
    (re.compile(r"mindie[\w-]*\.log$|mindservice\.log$"), "mindie", ""),
)


@dataclass(frozen=True, slots=True)
class Step:
    """One simple command.

    tool: hccn_tool, npu-smi, docker, a kind of file (hccn.conf, versions, rank-table, plog, mindie), echo,
        text (prints one line), quiet (prints nothing) or other.
    subcommand: the tool's own word without dash; "set" for a setting; "n" for an echo without line end.
    card, chip: what `-i` and `-c` say, None when that is not certain. filtered: a pipe may have taken lines away.
    """

    tool: str
    subcommand: str = ""
    card: int | None = None
    chip: int | None = None
    text: str = ""
    filtered: bool = False
    host: str = ""


@dataclass(frozen=True, slots=True)
class Typed:
    """A prompt line: the host that it names ("" for none) and the command behind it ("" for none)."""

    host: str
    command: str
    bare: bool = False


def typed(line: str) -> Typed | None:
    """Return what was typed in a line, None for a line of output. `# hccn_tool -i 0 -ip -g` is a root prompt."""
    for pattern in _PROMPTS:
        match = pattern.fullmatch(line)
        if match:
            return Typed(match.group("host") or "", (match.group("command") or "").strip())
    match = _BARE.match(line)
    if match is None:
        return None
    command = line[match.start("command") :].strip()
    if not line.lstrip().startswith("#") or _is_strict(command):
        return Typed("", command, bare=True)
    return None


def _is_strict(command: str) -> bool:
    """Whether a line after `#` is a command and not a sentence about one."""
    if command.startswith("for"):
        return bool(re.search(r";\s*done\b", command))
    words = command.split("|", maxsplit=1)[0].split()
    takes_any = {"-t", "cat", "docker", "inspect", "npu-smi"}
    return all(_GET_WORD.fullmatch(word) or before in takes_any for before, word in pairwise(words))


def _without_quoted(text: str) -> str:
    """Blank out what stands in quotes that are closed: a loop there is one of another shell, and whole."""
    return re.sub(r"\\.|'[^']*'|\"(?:\\.|[^\"\\])*\"", lambda quoted: "_" * len(quoted[0]), text, flags=re.DOTALL)


def unfinished(command: str) -> bool:
    """Whether the shell would wait for another line."""
    command = _without_quoted(command)
    opened = len(re.findall(r"(?:^|[;\s])do(?=\s|$)", command))
    started = len(re.findall(r"(?:^|[;'\"]|\bdo)\s*(?:for|while)\s", command))
    closed = len(re.findall(r"(?:^|[;\s])done(?=$|[\s;|&>)])", command))
    return command.rstrip().endswith("\\") or max(opened, started) > closed


def steps_of(command: str, host: str = "") -> tuple[Step, ...] | None:
    """Return the simple commands of a line in the order in which they run; None when that is not certain."""
    text = re.sub(r"\\\n", " ", command)
    text = re.sub(r"(?<![;{&|])\n(?!\s*$)", "; ", text)
    text = re.sub(r"\b(do|then|else)\s*;", r"\1 ", text)
    try:
        steps = list(_expanded(text.strip(), host, 0))
    except (ValueError, RecursionError):
        return None
    return tuple(steps) if len(steps) <= MAX_STEPS else None


def _words_of(listed: str) -> list[str]:
    """Expand the list of a `for`. Raises ValueError for what only a shell could know."""
    words: list[str] = []
    listed = re.sub(r"[$]\(\s*seq\s+([^)]*)\)|`\s*seq\s+([^`]*)`", _seq, listed.strip())
    for word in listed.split():
        span = re.fullmatch(r"\{(\d{1,4})\.\.(\d{1,4})\}", word)
        if span:
            first, last = int(span[1]), int(span[2])
            step = 1 if last >= first else -1
            words += [str(number) for number in range(first, last + step, step)]
        elif re.fullmatch(r"\{[\w.,:-]+\}", word):
            words += word[1:-1].split(",")
        elif re.fullmatch(r"[\w.:@/-]+", word.strip("\"'")):
            words.append(word.strip("\"'"))
        else:
            raise ValueError(word)
    if len(words) > MAX_STEPS:
        raise ValueError("too many")
    return words


def _seq(match: re.Match[str]) -> str:
    numbers = [int(word) for word in (match[1] or match[2]).split()]
    first, step, last = {1: (1, 1, numbers[0]), 2: (numbers[0], 1, numbers[-1])}.get(
        len(numbers), (numbers[0], numbers[1] if len(numbers) > 1 else 1, numbers[-1])
    )
    if not step or abs(last - first) > MAX_STEPS:
        raise ValueError("seq")
    return " ".join(str(number) for number in range(first, last + (1 if step > 0 else -1), step))


def _expanded(text: str, host: str, depth: int) -> Iterator[Step]:
    """Yield the steps of a text. Raises ValueError for what is not certain."""
    if depth > 4:  # noqa: PLR2004 - nobody types deeper loops
        raise ValueError("depth")
    loop = re.search(r"(?:^|;|&&|\bdo\b)\s*(for\s+(\w+)\s+in\s+(.+?)\s*;\s*do\s|for\s*\(\((.*?)\)\)\s*;?\s*do\s)", text)
    if loop is None:
        if re.search(r"(?:^|[;&]\s*)(?:while|until|if|case|function)\b", text):
            raise ValueError("control flow")
        yield from _simple(text, host)
        return
    yield from _simple(text[: loop.start(1)].strip().rstrip(";&"), host)
    body, tail = _body(text[loop.end() :])
    variable, words = (loop[2], _words_of(loop[3])) if loop[2] else _counted(loop[4])
    filtered = tail.startswith("|")
    piped, _, rest = tail.partition(";") if filtered else ("", "", tail)
    for word in words:
        filled = re.sub(rf"\$(?:\{{{variable}\}}|{variable}(?!\w))", word, body)
        for step in _expanded(filled, host, depth + 1):
            yield replace(step, filtered=True) if filtered and not _passes(piped) else step
    rest = rest.lstrip(" ;&")
    if rest:
        yield from _expanded(rest, host, depth + 1)


def _counted(head: str) -> tuple[str, list[str]]:
    match = re.fullmatch(r"\s*(\w+)\s*=\s*(\d+)\s*;\s*\1\s*(<=?)\s*(\d+)\s*;\s*(?:\1\s*\+\+|\+\+\s*\1)\s*", head)
    if match is None or int(match[4]) > MAX_STEPS:
        raise ValueError(head)
    return match[1], [str(number) for number in range(int(match[2]), int(match[4]) + (match[3] == "<="))]


def _body(text: str) -> tuple[str, str]:
    """Cut a loop's text at its own `done`."""
    depth = 1
    for match in re.finditer(r"(?:^|(?<=[;\s]))(for|while|done)(?=$|[\s;|&>)])", _without_quoted(text)):
        depth += -1 if match[1] == "done" else 1
        if depth == 0:
            return text[: match.start()].rstrip(" ;"), text[match.end() :].strip()
    raise ValueError("no done")


def _passes(piped: str) -> bool:
    return all((part.split() or ["?"])[0] in _PASSING for part in piped.strip("| ").split("|"))


def _simple(text: str, host: str) -> Iterator[Step]:
    """Yield the simple commands of a text without loops."""
    lexer = shlex.shlex(text, posix=True, punctuation_chars=";|&<>()")
    lexer.whitespace_split = True
    pipeline: list[list[str]] = [[]]
    for word in [*lexer, ";"]:
        if word in {";", "&&", "||", "&"}:
            if pipeline[0]:
                yield from _step(pipeline, host)
            pipeline = [[]]
        elif word in {"|", "|&"}:
            pipeline.append([])
        elif word not in {"(", ")"}:
            pipeline[-1].append(word)


def _step(pipeline: Sequence[Sequence[str]], host: str) -> Iterator[Step]:
    words, hidden = _without_redirections(pipeline[0])
    filtered = any((part or ["?"])[0].rpartition("/")[2] not in _PASSING for part in pipeline[1:])
    words = _without_prefixes(words)
    if not words or hidden:
        yield Step("quiet", text=" ".join(pipeline[0]), host=host)
        return
    name = words[0].rpartition("/")[2]
    if name == "ssh":
        target, rest = _ssh(words[1:])
        # in double quotes the backslash kept the dollar for the other host
        for step in _expanded(" ".join(rest).replace("\\$", "$"), target, 1) if rest else ():
            yield replace(step, filtered=step.filtered or filtered)
        return
    if name in {"bash", "sh"} and words[1:2] in (["-c"], ["-lc"]) and len(words) > 2:  # noqa: PLR2004
        for step in _expanded(words[2].replace("\\$", "$"), host, 1):
            yield replace(step, filtered=step.filtered or filtered)
        return
    step = _named(name, words[1:])
    yield replace(step, text=step.text or " ".join(words), filtered=filtered or step.filtered, host=host)


def _without_redirections(words: Sequence[str]) -> tuple[list[str], bool]:
    """Take redirections away; True when standard output goes to a file."""
    kept: list[str] = []
    hidden = False
    position = 0
    while position < len(words):
        word = words[position]
        if word in {">", ">>", ">&", "&>", "<"}:
            number = kept.pop() if kept and kept[-1] in {"1", "2"} else "1"
            hidden = hidden or (word in {">", ">>", "&>"} and number == "1")
            position += 2
            continue
        kept.append(word)
        position += 1
    return kept, hidden


def _without_prefixes(words: list[str]) -> list[str]:
    while words:
        name = words[0].rpartition("/")[2]
        if re.fullmatch(r"[A-Za-z_]\w*=.*", words[0]) or name in {"sudo", "time", "nohup", "-n"}:
            words = words[1:]
        elif name == "timeout" and len(words) > 1:
            words = words[2:]
        elif words[:2] == ["docker", "exec"]:
            position = 2
            while position < len(words) and words[position].startswith("-"):
                position += 2 if words[position] in {"-e", "-u", "-w"} else 1
            words = words[position + 1 :]
        else:
            return words
    return words


def _ssh(words: Sequence[str]) -> tuple[str, list[str]]:
    position = 0
    while position < len(words) and words[position].startswith("-"):
        position += 2 if words[position] in {"-p", "-i", "-o", "-l", "-J", "-F"} else 1
    if position == len(words):
        raise ValueError("ssh without a host")
    return words[position].rpartition("@")[2], list(words[position + 1 :])


def _after(words: Sequence[str], *options: str) -> str:
    return next((words[n + 1] for n, word in enumerate(words[:-1]) if word in options), "")


def _named(name: str, words: Sequence[str]) -> Step:
    if name == "hccn_tool":
        return _hccn(words)
    if name == "npu-smi":
        return _npu_smi(words)
    if name == "docker":
        rest = words[1:] if words[:1] in (["container"], ["image"]) else words
        word = {"ls": "ps" if words[:1] == ["container"] else "images"}.get((rest or [""])[0], (rest or [""])[0])
        return Step("docker" if word in {"version", "info", "ps", "images", "inspect"} else "other", word)
    if name in {"cat", "head", "tail", "grep", "less", "more"}:
        return _file(name, words)
    if name == "echo":
        text = " ".join(word for word in words if word not in {"-e", "-n", "-ne", "-en"}).strip()
        inline = bool({"-n", "-ne", "-en"} & set(words[:2]))
        return Step("echo" if text else "quiet", "n" if inline else "", text=text)
    return Step("text" if name in _PLAIN else "quiet" if name in _QUIET else "other", name)


def _npu_smi(words: Sequence[str]) -> Step:
    kind = _after(words, "-t") or next((word.lstrip("-") for word in words[1:] if word in {"-l", "-m"}), "info")
    known = words[:1] == ["info"] and "-h" not in words
    return Step("npu-smi" if known else "other", kind, to_int(_after(words, "-i")), to_int(_after(words, "-c")))


def _file(name: str, words: Sequence[str]) -> Step:
    """Return the step of a command that shows a file, by the file's name."""
    known = [next((Step(tool, kind) for pattern, tool, kind in _FILES if pattern.search(path)), None) for path in words]
    files = [step for step in known if step is not None]
    if len(files) == 1:
        return replace(files[0], filtered=name in {"head", "tail", "grep"})
    return Step("other", name)


def _hccn(words: Sequence[str]) -> Step:
    options = [word.lstrip("-") for word in words if re.fullmatch(r"-[A-Za-z_]\w*", word)]
    asked = [word for word in options if word not in {"i", "a", "g", "s", "inet6", "n", "t", "tcp"}]
    kind = asked[0] if asked else ""
    if "s" in options and kind not in {"roce_test", "ping"}:
        kind = "set"
    if not kind or "h" in options:
        return Step("other", "hccn_tool")
    return Step("hccn_tool", kind, to_int(_after(words, "-i")))
