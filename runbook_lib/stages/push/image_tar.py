"""Say what lies under the name of an image's tar, without reading it whole.

Usage: image_tar.py TAR STATE prints one line of JSON: {"size": bytes or null, "sha256": as STATE recorded it of this
very file, else "", "free": bytes of its file system with what an earlier try left, "images": [{"id", "names"}] or null
when that would mean to read it whole, "error"}. STATE is the record of weights_tool.py. `docker save` writes
manifest.json: the id of an image is the sum of its config, which names that file. Python 3.7 or newer.
"""

import json
import os
import pathlib
import re
import sys
import tarfile

DIGEST = re.compile("[0-9a-f]{64}")


def images_of(path):
    """Return what a tar carries; None for a compressed one, where the list stands behind all layers."""
    with open(str(path), "rb") as stream:
        head = stream.read(262)
    if head[257:262] != b"ustar":
        if not head.startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd")):
            raise ValueError("is no tar: it begins with %r" % head[:24])
        return None
    with tarfile.open(str(path), "r:") as tar:
        entries = json.loads(tar.extractfile("manifest.json").read().decode("utf-8"))
    found = []
    for entry in entries:
        digest = DIGEST.search(entry["Config"])
        found.append({"id": "sha256:" + digest.group() if digest else "", "names": list(entry["RepoTags"] or ())})
    return found


def recorded(path, state):
    """Return the sum that the record has of this file as it is now."""
    try:
        known = json.loads(pathlib.Path(state).read_text(encoding="utf-8"))["verified"][path.name]
        stat = path.stat()
        same = (known["size"], known["mtime_ns"]) == (stat.st_size, stat.st_mtime_ns)
        return known["sha256"] if same else ""
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def look(path, state):
    """Return what is said about a tar."""
    said = {"size": None, "sha256": "", "free": None, "images": None, "error": ""}
    folder = next(each for each in path.parents if each.is_dir())
    stats = os.statvfs(str(folder))
    part = path.with_name(path.name + ".incomplete")
    said["free"] = stats.f_bavail * stats.f_frsize + (part.stat().st_size if part.is_file() else 0)
    if path.is_file():
        said["size"], said["sha256"] = path.stat().st_size, recorded(path, state)
        try:
            said["images"] = images_of(path)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, tarfile.TarError, EOFError) as error:
            said["error"] = str(error) or type(error).__name__
    return said


def main():
    """Print it."""
    try:
        said = look(pathlib.Path(sys.argv[1]), sys.argv[2])
    except OSError as error:
        said = {"error": str(error)}
    print(json.dumps(said))


if __name__ == "__main__":
    main()
