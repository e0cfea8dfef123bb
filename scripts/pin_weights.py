"""Pin published weights: ask where each file is now, and write its revision and sha256 into a file of pins.

uv run scripts/pin_weights.py                      # all that are not pinned yet
uv run scripts/pin_weights.py 'mixnet_*' --again   # some, also those that are
uv run scripts/pin_weights.py --endpoint https://mirror.example --pins our-pins.yaml

The Hub announces the sha256 of a file; one from a URL is downloaded and hashed, one of the package is as it lies there
(`make_demo_weights.py` pins it when it is made). Exit status 1 when one failed; the
others are pinned all the same.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import sys
import urllib.request
from pathlib import Path

from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url
from huggingface_hub.errors import HTTPError

from effnets.errors import EffnetsError
from effnets.spec.models import list_models
from effnets.spec.specs import WeightsSpec
from effnets.spec.weights import PINS_VARIABLE, Pin, find_weights, pins_path, read_pins
from effnets.utils.paths import packaged_weights_dir
from effnets.weights.hashing import hash_file

HEADER = """\
# model.tag: {revision: …, sha256: …}, filled in by `uv run scripts/pin_weights.py` on a machine with network, and by
# `uv run scripts/make_demo_weights.py` for the file that lies in the package.
# Nobody writes here by hand: a hash is one that a program computed, or it does not stand here.
"""
CHUNK = 1 << 20
SECONDS = 60


def main() -> None:
    parser = argparse.ArgumentParser(description="Write revision and sha256 of published weights into a file of pins.")
    parser.add_argument("patterns", nargs="*", default=["*"], help="models or model.tag, such as 'mixnet_*'")
    parser.add_argument("--again", action="store_true", help="also what is pinned already, at its newest revision")
    parser.add_argument("--pins", type=Path, help=f"the file to write (default: ${PINS_VARIABLE}, or the shipped one)")
    parser.add_argument("--endpoint", default=constants.ENDPOINT, help="the Hub, or a mirror (default: $HF_ENDPOINT)")
    arguments = parser.parse_args()
    names = [name for pattern in arguments.patterns for name in list_models(pattern, pretrained=True)]
    if not names:
        sys.exit(f"no published weights match {' '.join(arguments.patterns)}")

    path = arguments.pins or pins_path()
    if not path.exists():  # a new file is asked for
        write_pins(path, {})
    os.environ[PINS_VARIABLE] = str(path)
    pins = dict(read_pins(path))
    failed = 0
    for name in dict.fromkeys(names):
        if name in pins and not arguments.again:
            continue
        try:
            pins[name] = find_pin(find_weights(name), arguments.endpoint)
        except (HTTPError, OSError, EffnetsError) as error:
            failed += 1
            print(f"failed  {name}: {' '.join(str(error).split())}", file=sys.stderr)
        else:
            write_pins(path, pins)  # each at once: an interruption loses nothing
            print(f"pinned  {name}: {pins[name].sha256}")
    if failed:
        sys.exit(f"{failed} of {len(names)} could not be pinned")


def find_pin(weights: WeightsSpec, endpoint: str) -> Pin:
    """What the file of `weights` is at this moment."""
    if weights.packaged:
        pin = Pin(sha256=hash_file(packaged_weights_dir() / weights.file))
    elif weights.repo is None:
        pin = Pin(sha256=hash_url(weights.source))
    else:
        url = hf_hub_url(weights.repo, weights.file, endpoint=endpoint)
        metadata = get_hf_file_metadata(url, endpoint=endpoint, retry_on_errors=True)
        if not re.fullmatch("[0-9a-f]{64}", metadata.etag or ""):
            raise EffnetsError(f"{url}: announces no sha256 (its ETag is {metadata.etag})")
        if not re.fullmatch("[0-9a-f]{40}", metadata.commit_hash or ""):
            raise EffnetsError(f"{url}: announces no commit (it says {metadata.commit_hash})")
        pin = Pin(sha256=metadata.etag, revision=metadata.commit_hash)
    if not str(pin.sha256).startswith(weights.sha256_prefix or ""):
        raise EffnetsError(f"the sha256 is {pin.sha256}; the file's name says {weights.sha256_prefix}: do not use it")
    return pin


def hash_url(url: str) -> str:
    """The sha256 of what lies at `url`."""
    digest = hashlib.sha256()
    with urllib.request.urlopen(url, timeout=SECONDS) as response:
        expected, received = response.headers.get("Content-Length"), 0
        while chunk := response.read(CHUNK):
            digest.update(chunk)
            received += len(chunk)
    if expected is not None and received != int(expected):
        raise EffnetsError(f"{url}: ended after {received:,} of {int(expected):,} bytes")
    return digest.hexdigest()


def write_pins(path: Path, pins: dict[str, Pin]) -> None:
    """Write `pins` in alphabetical order, whole or not at all."""
    rows = []
    for name, pin in sorted(pins.items()):
        digits = [f'{key}: "{value}"' for key, value in (("revision", pin.revision), ("sha256", pin.sha256)) if value]
        rows.append(f"{name}: {{{', '.join(digits)}}}\n")
    partial = path.with_name(path.name + ".partial")
    partial.write_text(HEADER + ("".join(rows) or "{}\n"), encoding="utf-8")
    partial.replace(path)


if __name__ == "__main__":
    main()
