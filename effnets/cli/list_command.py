"""``effnets list``."""

from __future__ import annotations

import json
from dataclasses import asdict

import click

from effnets.cli.text import short
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
        wider = f"*{pattern}*"
        hint = f"try {wider!r}" if list_models(wider) else "'effnets list' shows all"
        raise click.ClickException(f"no model matches {pattern!r}; {hint}")
    models = [(load_spec(name), count(name)) for name in names]
    if as_json:
        rows = [
            {"model": spec.name, "family": spec.family, **asdict(cost), "input_size": spec.input_size}
            for spec, cost in models
        ]
        click.echo(json.dumps(rows, indent=1))
        return
    # Plain text: a table of rich's would take longer than all the counting.
    name_width = max(len(name) for name in names)
    family_width = max(len(spec.family) for spec, _ in models)
    click.echo(f"{'model':{name_width}}  {'family':{family_width}}  parameters  multiply-adds    input")
    for spec, cost in models:
        costs = f"{short(cost.params):>10}  {short(cost.madds):>13}"
        size = f"{spec.input_size}×{spec.input_size}"
        click.echo(f"{spec.name:{name_width}}  {spec.family:{family_width}}  {costs}  {size:>7}")
