"""Ask every source of published weights whether it is still there, and report those that have moved or changed.

uv run scripts/check_sources.py [PATTERN ...] [--endpoint URL]

No weights are downloaded. Exit status 1 when a source is not as it should be.
"""

from __future__ import annotations

import argparse
import sys
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from huggingface_hub import HfApi, constants, get_hf_file_metadata, hf_hub_url
from huggingface_hub.errors import HTTPError

from effnets.errors import EffnetsError
from effnets.spec.models import list_models
from effnets.spec.specs import WeightsSpec
from effnets.spec.weights import find_weights
from effnets.weights.fetch import fetch

SECONDS = 30
AT_ONCE = 8


def main() -> None:
    parser = argparse.ArgumentParser(description="Report sources of published weights that have moved or changed.")
    parser.add_argument("patterns", nargs="*", default=["*"], help="models or model.tag, such as 'mixnet_*'")
    parser.add_argument("--endpoint", default=constants.ENDPOINT, help="the Hub, or a mirror (default: $HF_ENDPOINT)")
    arguments = parser.parse_args()
    names = dict.fromkeys(name for pattern in arguments.patterns for name in list_models(pattern, pretrained=True))
    weights = [find_weights(name) for name in names]
    if not weights:
        sys.exit(f"no published weights match {' '.join(arguments.patterns)}")
    with ThreadPoolExecutor(AT_ONCE) as pool:
        problems = list(pool.map(partial(check, endpoint=arguments.endpoint), weights))
    for entry, problem in zip(weights, problems, strict=True):
        print(f"{'ok' if problem is None else 'NOT OK':6}  {entry.name}  {problem or entry.source}")
    wrong = sum(problem is not None for problem in problems)
    if wrong:
        sys.exit(f"{wrong} of {len(weights)} sources are not as configs/weights says")


def check(weights: WeightsSpec, endpoint: str) -> str | None:
    """What is wrong with the source of `weights`; None where nothing is."""
    try:
        if weights.packaged:
            fetch(weights)
            return None
        return check_url(weights.source) if weights.repo is None else check_hub(weights, weights.repo, endpoint)
    except (HTTPError, OSError, EffnetsError) as error:
        return " ".join(str(error).split())


def check_url(url: str) -> str | None:
    with urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=SECONDS) as response:
        return None if response.url == url else f"moved: {url} → {response.url}"


def check_hub(weights: WeightsSpec, repo: str, endpoint: str) -> str | None:
    """The repository by its name, then the file at the pinned revision, or else the newest."""
    name = HfApi(endpoint=endpoint).model_info(repo, timeout=SECONDS).id
    if name != repo:
        return f"moved: {repo} → {name}"
    url = hf_hub_url(repo, weights.file, revision=weights.revision, endpoint=endpoint)
    metadata = get_hf_file_metadata(url, endpoint=endpoint, timeout=SECONDS, retry_on_errors=True)
    if weights.sha256 is not None and metadata.etag != weights.sha256:
        return f"changed: {url} has sha256 {metadata.etag}, pinned is {weights.sha256}"
    return None


if __name__ == "__main__":
    main()
