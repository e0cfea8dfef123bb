"""``effnets prefetch``."""

from __future__ import annotations

import json

import click

from effnets.cli.format import printable
from effnets.errors import EffnetsError
from effnets.spec.models import list_models
from effnets.spec.specs import HUB_SCHEME
from effnets.spec.weights import find_source, find_weights


@click.command(name="prefetch")
@click.argument("patterns", nargs=-1, required=True, metavar="PATTERN…")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of lines.")
def command(patterns: tuple[str, ...], as_json: bool) -> None:
    """Fetch the published weights whose name, or whose model's, matches a PATTERN, such as 'mixnet_*'.

    A PATTERN may also be a repository of your own, hf-hub:user/repo, whose newest commit is fetched. What is in the
    cache already is compared and not fetched again. The others are fetched also if one fails; then the exit status
    is 1.
    """
    rows: list[dict[str, str | None]] = []
    for name in dict.fromkeys(name for pattern in patterns for name in _expand(pattern)):
        try:
            row = _fetch(name)
        except EffnetsError as error:
            rows.append({"name": name, "error": str(error)})
            click.echo(printable(f"failed: {error}"), err=True)
            continue
        rows.append(row)
        if not as_json:
            click.echo(printable(f"{name}: {row['path']}"))
    if as_json:
        click.echo(json.dumps(rows, indent=1))
    failed = sum("error" in row for row in rows)
    if failed:
        click.echo(f"{failed} of {len(rows)} could not be fetched", err=True)
        click.get_current_context().exit(1)


def _expand(pattern: str) -> list[str]:
    """The names that a pattern stands for."""
    if pattern.startswith(HUB_SCHEME):
        return [find_source(pattern) or pattern]
    matching = list_models(pattern, pretrained=True)
    if not matching:
        raise click.ClickException(
            f"no published weights match {pattern!r}; 'effnets list --pretrained' shows all there are"
        )
    return matching


def _fetch(name: str) -> dict[str, str | None]:
    if name.startswith(HUB_SCHEME):
        from effnets.weights.repository import fetch_repository

        saved = fetch_repository(name, refresh=True)
        path, source, sha256 = saved.weights, saved.weights_source, saved.weights_sha256
    else:
        from effnets.weights.fetch import fetch

        file = fetch(find_weights(name))
        path, source, sha256 = file.path, file.source, file.sha256
    return {"name": name, "path": str(path), "source": source, "sha256": sha256}
