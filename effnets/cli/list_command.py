"""``effnets list``."""

from __future__ import annotations

import json
from dataclasses import asdict

import click

from effnets.config import list_models, load_spec
from effnets.cost import count

__all__ = ["command"]


@click.command(name="list")
@click.argument("pattern", default="*")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def command(pattern: str, as_json: bool) -> None:
    """List the models whose name matches PATTERN, such as 'mixnet_*'; quote it, or the shell may expand it."""
    names = list_models(pattern)
    if not names:
        raise click.ClickException(f"no model matches {pattern!r}; 'effnets list' shows all")
    models = [(load_spec(name), count(name)) for name in names]
    if as_json:
        rows = [
            {"model": spec.name, "family": spec.family, **asdict(cost), "input_size": spec.input_size}
            for spec, cost in models
        ]
        click.echo(json.dumps(rows, indent=1))
        return

    from effnets.cli.tables import make_table, print_table, short

    table = make_table(
        ["model", "family", "parameters", "multiply-adds", "input"], right=["parameters", "multiply-adds", "input"]
    )
    for spec, cost in models:
        size = f"{spec.input_size}×{spec.input_size}"
        table.add_row(spec.name, spec.family, short(cost.params), short(cost.madds), size)
    print_table(table)
