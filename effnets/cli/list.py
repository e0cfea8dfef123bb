"""``effnets list``."""

from __future__ import annotations

import json
from dataclasses import asdict

import click

from effnets.cli.format import short
from effnets.spec.cost import count
from effnets.spec.models import list_models, load_spec
from effnets.spec.weights import find_weights


@click.command(name="list")
@click.argument("pattern", default="*")
@click.option("--pretrained", is_flag=True, help="List published weights, model.tag, instead of models.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def command(pattern: str, pretrained: bool, as_json: bool) -> None:
    """List the models whose name matches PATTERN, such as 'mixnet_*'; quote it, or the shell may expand it.

    With --pretrained, PATTERN may match the model or the whole name, such as '*.keras_*'; top-1 is the published
    accuracy in per cent, whose source stands in weights.md.
    """
    if pretrained:
        _list_weights(pattern, as_json)
    else:
        _list_models(pattern, as_json)


def _list_models(pattern: str, as_json: bool) -> None:
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


def _list_weights(pattern: str, as_json: bool) -> None:
    weights = [find_weights(name) for name in list_models(pattern, pretrained=True)]
    if not weights:
        raise click.ClickException(
            f"no published weights match {pattern!r}; 'effnets list --pretrained' shows all there are"
        )
    if as_json:
        click.echo(json.dumps([{"name": entry.name, **asdict(entry)} for entry in weights], indent=1))
        return
    name_width = max(len(entry.name) for entry in weights)
    licence_width = max(len("licence"), *(len(entry.licence) for entry in weights))
    click.echo(f"{'weights':{name_width}}  top-1    input  {'license':{licence_width}}  source")
    for entry in weights:
        top1 = "–" if entry.top1 is None else f"{entry.top1:.1f}"
        size = f"{entry.preprocess.input_size}×{entry.preprocess.input_size}"
        click.echo(f"{entry.name:{name_width}}  {top1:>5}  {size:>7}  {entry.licence:{licence_width}}  {entry.source}")
