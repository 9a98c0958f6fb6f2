"""Look whether a directory holds whole weights, by the headers of its files: seconds for 163 files of 4 GB.

Usage: weights_check.py DIRECTORY prints one line of JSON: {"problems": [[file, what]], "shards": n, "tensors": n}.
Given to `python3 -c` by the probe, and imported by weights_tool.py. Finds truncated and padded shards, git-lfs
pointers and error pages saved as weights, shards that are missing, and tensors that the index promises and no file
holds; flipped bytes are seen only by the sum of the whole file. The format: safetensors README. Python 3.7 or newer.
"""

import json
import pathlib
import re
import struct
import sys

LONGEST_HEADER = 100000000  # bytes; the reader of the format takes no longer one
LFS = b"version https://git-lfs"
COUNTED = re.compile(r"-(\d{5,6})-of-(\d{5,6})\.safetensors$")


def check(directory):
    """Return {"problems", "shards", "tensors"} of a directory."""
    folder = pathlib.Path(directory)
    problems, tensors = [], {}
    names = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
    shards = [name for name in names if name.endswith(".safetensors")]
    for name in shards:
        try:
            tensors[name] = header_of(folder / name)
        except (OSError, ValueError) as error:
            problems.append([name, str(error)])
    problems += _counts(shards)
    indexes = [name for name in names if name.endswith(".index.json")]
    for name in indexes:
        problems += _index(folder, name, tensors, {each for each, _ in problems})
    if not indexes and len(shards) > 1:
        problems.append(["*.index.json", "there is no index beside %d shards" % len(shards)])
    return {"problems": problems, "shards": len(shards), "tensors": sum(map(len, tensors.values()))}


def header_of(path):
    """Return the names of the tensors in a file. Raises ValueError that says what the file is instead."""
    size = path.stat().st_size
    with open(str(path), "rb") as stream:
        first = stream.read(64)
        length = struct.unpack("<Q", first[:8])[0] if len(first) >= 8 else LONGEST_HEADER + 1
        if length > LONGEST_HEADER or 8 + length > size:
            raise ValueError(_instead(first, size))
        stream.seek(8)
        try:
            header = json.loads(stream.read(length).decode("utf-8"))
            entries = {name: entry for name, entry in header.items() if name != "__metadata__"}
            end = max([entry["data_offsets"][1] for entry in entries.values()] or [0])
        except (ValueError, KeyError, TypeError, IndexError, AttributeError):
            raise ValueError("has no readable header")
    if 8 + length + end != size:
        raise ValueError("expected %d bytes by its header, seen %d" % (8 + length + end, size))
    return set(entries)


def _instead(first, size):
    """Say what a file is that cannot be a safetensors file."""
    if first.startswith(LFS):
        return "is a git-lfs pointer of %d bytes, not the weights" % size
    if first.lstrip()[:1] in (b"<", b"{"):
        return "is a web page or an error message, not weights: %r" % first[:40]
    return "is cut or no safetensors file: %d bytes" % size


def _counts(shards):
    problems, groups = [], {}
    for name in shards:
        match = COUNTED.search(name)
        if match:
            groups.setdefault((name[: match.start()], int(match.group(2))), set()).add(int(match.group(1)))
    for (stem, total), seen in groups.items():
        missing = sorted(set(range(1, total + 1)) - seen)
        if missing:
            problems.append(
                [stem, "%d of %d shards missing, the first is number %d" % (len(missing), total, missing[0])]
            )
    return problems


def _index(folder, name, tensors, known):
    try:
        with open(str(folder / name), "rb") as stream:
            wanted = json.loads(stream.read().decode("utf-8"))["weight_map"]
        pairs = list(wanted.items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return [[name, "is no index: it holds no weight_map"]]
    lost, first = {}, {}
    for tensor, file in pairs:
        if file in known or tensor in tensors.get(file, ()):
            continue  # said already, or there
        lost[file] = lost.get(file, 0) + 1
        first.setdefault(file, tensor)
    return [
        [str(file), "%d tensors of the index are not in it, the first is %s" % (lost[file], first[file])]
        if file in tensors
        else [str(file), "is missing: the index puts %d tensors into it" % lost[file]]
        for file in sorted(lost, key=str)
    ]


def main():
    """Print what is wrong."""
    try:
        said = check(sys.argv[1])
    except OSError as error:
        said = {"problems": [], "shards": 0, "tensors": 0, "error": str(error)}
    print(json.dumps(said))


if __name__ == "__main__":
    main()
