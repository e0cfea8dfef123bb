"""``effnets prefetch``."""

from __future__ import annotations

import json

import click

from effnets.cli.text import printable
from effnets.config import list_models
from effnets.errors import EffnetsError
from effnets.registry import find_weights

__all__ = ["command"]


@click.command(name="prefetch")
@click.argument("patterns", nargs=-1, required=True, metavar="PATTERN…")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of lines.")
def command(patterns: tuple[str, ...], as_json: bool) -> None:
    """Fetch the published weights whose name, or whose model's, matches a PATTERN, such as 'mixnet_*'.

    What is in the cache already is compared and not fetched again. The others are fetched also if one fails; then the
    exit status is 1.
    """
    names: list[str] = []
    for pattern in patterns:
        matching = list_models(pattern, pretrained=True)
        if not matching:
            raise click.ClickException(
                f"no published weights match {pattern!r}; 'effnets list --pretrained' shows all there are"
            )
        names += matching

    from effnets.weights.fetch import fetch  # brings the client, which --help should not wait for

    rows: list[dict[str, str | None]] = []
    for name in dict.fromkeys(names):
        try:
            file = fetch(find_weights(name))
        except EffnetsError as error:
            rows.append({"name": name, "error": str(error)})
            click.echo(printable(f"failed: {error}"), err=True)
            continue
        rows.append({"name": name, "path": str(file.path), "source": file.source, "sha256": file.sha256})
        if not as_json:
            click.echo(printable(f"{name}: {file.path}"))
    if as_json:
        click.echo(json.dumps(rows, indent=1))
    failed = sum("error" in row for row in rows)
    if failed:
        click.echo(f"{failed} of {len(rows)} could not be fetched", err=True)
        click.get_current_context().exit(1)
