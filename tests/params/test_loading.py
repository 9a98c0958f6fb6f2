"""Reading params files: every mistake is named with file and line, before any host is touched."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from runbook_lib.errors import ParamsError, UsageError
from runbook_lib.params import Topology, load_params, params_schema, project_root, resolve_path

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).parents[2]
SHIPPED = sorted((ROOT / "params").glob("*.yaml"))

BASE = """cluster:
  name: test
  topology: direct
  hosts:
    - name: a
      address: 127.0.0.1
      service_ip: 127.0.0.1
      cards: [{cards_a}]
    - name: b
      address: 127.0.0.2
      service_ip: 127.0.0.2
      cards: [{cards_b}]
model:
  weights:
    directory: /data/weights
    source: {{url: "http://127.0.0.3/m"}}
container:
  image: mindie:1.0.0-x
""".format(
    cards_a=", ".join(f"{{id: {card}, ip: 10.9.0.{card + 1}}}" for card in range(8)),
    cards_b=", ".join(f"{{id: {card}, ip: 10.9.0.{card + 101}}}" for card in range(8)),
)


def line_of(text: str, words: str) -> int:
    """Return the number of the first line that holds some words."""
    return next(number for number, line in enumerate(text.splitlines(), 1) if words in line)


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes a params file of a given text and name."""

    def make(text: str = BASE, name: str = "x.yaml") -> Path:
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return path

    return make


def problems(path: Path, overrides: Any = None) -> list[str]:
    """Return what is wrong with a file."""
    with pytest.raises(ParamsError) as caught:
        load_params(path, overrides)
    assert caught.value.exit_code == 2
    return caught.value.problems


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_files_load(path: Path) -> None:
    """Every file in params/ holds, names itself as its file, and fits the shipped schema's keys."""
    params = load_params(path)
    assert params.cluster.name == path.stem
    assert params.world_size == sum(len(host.cards) for host in params.cluster.hosts)
    assert (params.twin is None) == path.stem.startswith("example")
    assert params.master is params.cluster.hosts[0]


def test_there_are_shipped_files() -> None:
    """The glob above finds the rehearsal clusters."""
    assert {"twin-2x8-direct", "twin-4x8-switch", "demo"} <= {path.stem for path in SHIPPED}


def test_the_shipped_schema_is_the_exported_one() -> None:
    """Editors complain about what the loader refuses, no more and no less."""
    assert json.loads((ROOT / "params" / "schema.json").read_text(encoding="utf-8")) == params_schema()


def test_a_good_file_loads(write: Callable[..., Path]) -> None:
    """The base of these tests holds; else they would test nothing."""
    params = load_params(write())
    assert params.cluster.topology is Topology.DIRECT
    assert params.world_size == 16


@pytest.mark.parametrize(
    ("old", "new", "words", "line"),
    [
        ("  topology: direct", "  topologie: direct", "unknown key", "topologie"),
        ("  image: mindie", "  shm: 1g\n  image: mindie", "unknown key", "shm: 1g"),
        ("  topology: direct", "  topology: ring", "topology", "ring"),
        ("  name: test", "  name: 7", "cluster.name", "name: 7"),
        ("  name: test", "  name: Test Cluster", "cluster.name", "Test Cluster"),
        ("  name: test", "  name: test\n  mtu: '1500'", "cluster.mtu", "mtu"),
        ("  name: test", "  name: test\n  mtu: 12", "cluster.mtu", "mtu"),
        ("  name: test", "  name: test\n  mtu: true", "cluster.mtu", "mtu"),
        ("service_ip: 127.0.0.2", "service_ip: 127.0.0.300", "is not an IPv4 address", "127.0.0.300"),
        ("directory: /data/weights", "directory: data/weights", "is not an absolute path", "data/weights"),
        ("directory: /data/weights", "directory: /data/../etc", "is not an absolute path", "/etc"),
        ("directory: /data/weights", "directory: /", "is not an absolute path", "directory"),
        ("  image: mindie", "  shm_size: 500\n  image: mindie", "container.shm_size", "shm_size"),
        ("model:", "service:\n  port: 80\nmodel:", "service.port", "port: 80"),
        ("model:", "service:\n  npu_memory_fraction: 95\nmodel:", "npu_memory_fraction", "fraction: 95"),
        ("model:", "service: {max_iter_times: 99999}\nmodel:", "max_iter_times 99999 is above", "service:"),
        ("model:", "service: {max_prefill_tokens: 16}\nmodel:", "below max_input_token_len", "service:"),
        ("model:", "service: {max_batch_size: 4}\nmodel:", "max_prefill_batch_size", "service:"),
        ("model:", "policy: {yes_approves: [destructive]}\nmodel:", "never approved by --yes", "policy:"),
        ("model:", "benchmark: {concurrency: []}\nmodel:", "benchmark.concurrency", "benchmark:"),
        ("model:", "model:\n  format: fp8", "model.format", "fp8"),
        ('{url: "http', '{token: hunter2, url: "http', "right would be env:NAME or file:PATH", "hunter2"),
        ('{url: "http', '{url: "ftp', "url", "ftp"),
    ],
)
def test_mistakes_are_named_with_their_line(
    write: Callable[..., Path], old: str, new: str, words: str, line: str
) -> None:
    """One mistake, one problem, at file:line."""
    text = BASE.replace(old, new, 1)
    assert text != BASE
    path = write(text)
    found = problems(path)
    assert any(words in each for each in found), found
    hit = next(each for each in found if words in each)
    assert hit.startswith(f"{path}:{line_of(text, line)}: "), hit


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("ip: 10.9.0.101}", "ip: 10.9.0.1}", "device IP 10.9.0.1 is given more than once"),
        ("name: b", "name: a", "host name a is given more than once"),
        ("  address: 127.0.0.2", "  address: 127.0.0.1", "host address 127.0.0.1 is given more than once"),
        ("service_ip: 127.0.0.2", "service_ip: 127.0.0.1", "service_ip 127.0.0.1 is given more than once"),
        ("{id: 1, ip: 10.9.0.2}", "{id: 0, ip: 10.9.0.2}", "right would be each id once"),
        ("ip: 10.9.0.1}", "ip: 192.168.3.1}", "a card 0: device IP 192.168.3.1 lies in 192.168.0.x-192.168.7.x"),
        ("ip: 10.9.0.1}", "ip: 10.9.0.1, peer: 192.168.7.255}", "peer 192.168.7.255 lies in"),
        ("ip: 10.9.0.1}", "ip: 10.9.0.1, gateway: 10.8.0.1}", "gateway 10.8.0.1 is not in 10.9.0.0/24"),
        ("topology: direct", "topology: switch", "a card 0: no gateway; right on a switch"),
        (", {id: 7, ip: 10.9.0.108}", "", "different numbers of cards"),
        ("{id: 7, ip: 10.9.0.108}", "{id: 8, ip: 10.9.0.108}", "card ids of the two hosts differ"),
        ("  weights:", "  format: bf16\n  weights:", "bf16 weights need 32 cards of 64 GB, the cluster has 16"),
    ],
)
def test_rules_across_values(write: Callable[..., Path], old: str, new: str, words: str) -> None:
    """What only shows when values are seen together."""
    assert old in BASE
    found = problems(write(BASE.replace(old, new, 1)))
    assert any(words in each for each in found), found


def test_direct_needs_two_hosts(write: Callable[..., Path]) -> None:
    """A cable has two ends: one host or three are named as the mistake."""
    first = BASE.index("    - name: b")
    one = BASE[:first] + BASE[BASE.index("model:") :]
    assert any("topology direct with 1 hosts; right would be 2" in each for each in problems(write(one)))
    third = BASE[first : BASE.index("model:")].replace("name: b", "name: c").replace("127.0.0.2", "127.0.0.4")
    three = BASE.replace("model:", third.replace("10.9.0.", "10.9.1.") + "model:", 1)
    assert any("topology direct with 3 hosts" in each for each in problems(write(three)))


def test_all_problems_come_at_once(write: Callable[..., Path]) -> None:
    """Nobody repairs a file one message at a time."""
    found = problems(write(BASE.replace("name: test", "name: 7").replace("image:", "imago:")))
    assert len(found) >= 3


def test_addresses_just_outside_the_vnic_range_are_fine(write: Callable[..., Path]) -> None:
    """192.168.8.x is not 192.168.7.x."""
    assert load_params(write(BASE.replace("10.9.0.", "192.168.8."))).world_size == 16


def test_unreadable_files_are_named(tmp_path: Path, write: Callable[..., Path]) -> None:
    """Missing, a folder, not UTF-8, empty, a list, not YAML with its line, a forbidden character."""
    assert problems(tmp_path / "none.yaml") == [f"{tmp_path}/none.yaml: cannot be read: No such file or directory"]
    assert "cannot be read: Is a directory" in problems(tmp_path)[0]
    (tmp_path / "latin.yaml").write_bytes(BASE.encode() + b"# \xff\xfe\n")
    assert problems(tmp_path / "latin.yaml") == [f"{tmp_path}/latin.yaml: cannot be read: not UTF-8 text"]
    assert "a params file is a mapping" in problems(write("", "empty.yaml"))[0]
    assert "a params file is a mapping" in problems(write("- 1\n", "list.yaml"))[0]
    broken = write(BASE + "service:\n  port: [1\nx: y\n", "broken.yaml")
    assert problems(broken)[0].startswith(f"{broken}:")
    assert "not YAML" in problems(broken)[0]
    assert int(problems(broken)[0].split(":")[1]) > line_of(BASE, "container:")
    twice = write(BASE + "container: {image: x}\n", "twice.yaml")
    assert problems(twice)[0].startswith(f"{twice}:{len(BASE.splitlines()) + 1}: not YAML")
    assert "not YAML" in problems(write(BASE + "# \x01\n", "control.yaml"))[0]


def test_extends_merges_and_blames_the_right_file(write: Callable[..., Path]) -> None:
    """Mappings are merged, lists and values replaced; each line keeps the file it stands in."""
    base = write(BASE + "service:\n  port: 2000\n  management_port: 2001\n", "base.yaml")
    write("extends: base.yaml\nservice:\n  port: 3000\n", "middle.yaml")
    top = write("extends: middle.yaml\n\nbenchmark:\n  concurrency: [3]\n", "top.yaml")
    params = load_params(top)
    assert (params.service.port, params.service.management_port) == (3000, 2001)
    assert params.benchmark.concurrency == [3]
    base.write_text(BASE.replace("topology: direct", "topology: ring"), encoding="utf-8")
    assert problems(top)[0].startswith(f"{base}:{line_of(BASE, 'topology')}: ")
    base.write_text(BASE, encoding="utf-8")
    top.write_text("extends: middle.yaml\n\nbenchmark:\n  concurrency: [no]\n", encoding="utf-8")
    assert problems(top)[0].startswith(f"{top}:4: benchmark.concurrency.0")


def test_a_replaced_list_forgets_the_lines_below(write: Callable[..., Path]) -> None:
    """What a host on top lacks is looked for on top, not where the base has it."""
    write(name="base.yaml")
    top = write("extends: base.yaml\ncluster:\n  hosts:\n    - name: z\n      address: 127.0.0.9\n", "top.yaml")
    found = problems(top)
    assert found
    assert all(each.startswith(f"{top}:4: cluster.hosts.0.") for each in found), found


def test_extends_in_a_circle_ends(write: Callable[..., Path]) -> None:
    """A circle, a file that is not there, and something that is no path."""
    circle = write("extends: x.yaml\n")
    assert "without a circle" in problems(circle)[0]
    assert "cannot be read" in problems(write("extends: nowhere.yaml\n", "y.yaml"))[0]
    odd = write("container: {image: x}\nextends: [a, b]\n", "z.yaml")
    assert problems(odd)[0].startswith(f"{odd}:2: extends: ")


def test_overrides_are_typed_by_the_schema(write: Callable[..., Path]) -> None:
    """A dict and its JSON text do the same; nothing is guessed from how a value looks."""
    wanted = {"service.port": 1035, "cluster.hosts.1.address": "127.0.0.7", "container.image": "mindie:7.10"}
    for overrides in (wanted, json.dumps(wanted)):
        params = load_params(write(), overrides)
        assert params.service.port == 1035
        assert params.cluster.hosts[1].address == "127.0.0.7"
        assert params.container.image == "mindie:7.10"
    nothings: tuple[dict[str, Any] | str | None, ...] = (None, {}, "", "  ")
    for nothing in nothings:
        assert load_params(write(), nothing).service.port == 1025
    assert "service.port" in problems(write(), {"service.port": "1035"})[0]
    assert "cluster.name" in problems(write(), {"cluster.name": 7})[0]
    assert "unknown key" in problems(write(), {"service.prot": 1})[0]
    assert "not in 10.9.0.0/24" in problems(write(), {"cluster.hosts.0.cards.0.gateway": "10.7.0.1"})[0]


def test_overrides_make_missing_parents(write: Callable[..., Path]) -> None:
    """A section that the file leaves out can still be set."""
    assert load_params(write(), {"twin.network": "127.5.5"}).twin is not None


@pytest.mark.parametrize(
    "overrides",
    [
        {"cluster.hosts.7.address": "x"},
        {"cluster.hosts.first.address": "x"},
        {"cluster.hosts.2": {}},
        {"cluster.name.x": 1},
        {"cluster.hosts.-1": {}},
        "{",
        "[1]",
        '"x"',
        [("service.port", 1)],
    ],
)
def test_overrides_that_lead_nowhere_are_refused(write: Callable[..., Path], overrides: Any) -> None:
    """A mistyped path changes nothing silently."""
    with pytest.raises(UsageError, match="overrides"):
        load_params(write(), overrides)


def test_words_stay_words(write: Callable[..., Path]) -> None:
    """YAML 1.2: `no`, `on`, `off` and `yes` are names, and 007 is not a name."""
    params = load_params(write(BASE.replace("name: a", "name: no").replace("name: b", "name: off")))
    assert [host.name for host in params.cluster.hosts] == ["no", "off"]
    assert load_params(write(BASE.replace("name: test", "name: on"))).cluster.name == "on"


def test_paths_are_found_from_anywhere(
    tmp_path: Path, write: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As given, else below the project root; RUNBOOK_HOME names the root."""
    (tmp_path / "params").mkdir()
    (tmp_path / "notebooks").mkdir()
    write(name="params/x.yaml")
    monkeypatch.delenv("RUNBOOK_HOME", raising=False)
    monkeypatch.chdir(tmp_path / "notebooks")
    assert project_root() == tmp_path.resolve()
    assert resolve_path("params/x.yaml") == tmp_path.resolve() / "params/x.yaml"
    assert load_params("params/x.yaml").cluster.name == "test"
    assert resolve_path(tmp_path / "q.yaml") == tmp_path / "q.yaml"
    monkeypatch.setenv("RUNBOOK_HOME", str(tmp_path))
    monkeypatch.chdir("/")
    assert project_root() == tmp_path.resolve()
    monkeypatch.delenv("RUNBOOK_HOME")
    with pytest.raises(UsageError, match="RUNBOOK_HOME"):
        project_root(Path("/"))
