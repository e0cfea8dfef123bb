"""``effnets show``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import click

from effnets.cli.format import make_table, print_table, short
from effnets.spec.block_string import encode_block
from effnets.spec.cost import StageCost, stage_costs, sum_costs
from effnets.spec.models import load_spec
from effnets.spec.plan import BlockPlan, NetworkPlan, make_plan
from effnets.spec.specs import ModelSpec


@click.command(name="show")
@click.argument("model")
@click.option("--image-size", type=click.IntRange(1, 8192), help="Side of the input in pixels [default: the model's].")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def command(model: str, image_size: int | None, as_json: bool) -> None:
    """Show the stages of MODEL, a name of the zoo or a YAML file of your own.

    Block strings stand as they are written, before the multipliers; the other columns show what comes of them.
    A kernel group is its size and its channels: 3×3:40; d2 is a dilation of 2.
    """
    spec = load_spec(model)
    plan = make_plan(spec)
    size = image_size or spec.input_size
    stages = stage_costs(plan, size)
    parts = [_describe(stage, spec, plan) for stage in stages]
    total = sum_costs(stages)
    if as_json:
        summary = {"model": spec.name, "family": spec.family, "input_size": size}
        click.echo(json.dumps(summary | {"params": total.params, "madds": total.madds, "stages": parts}, indent=1))
        return

    right = ["output", "parameters", "multiply-adds"]
    table = make_table(
        ["part", "blocks", "kernel groups", *right], right=right, whole=["part", "blocks"], title=_title(spec, size)
    )
    for part in parts:
        blocks, kernels = [row["block"] for row in part["rows"]], [row["kernel_groups"] for row in part["rows"]]
        channels, height, width = part["output"]
        table.add_row(
            part["part"],
            "\n".join(blocks),
            "\n".join(kernels),
            f"{channels}×{height}×{width}",
            short(part["params"]),
            short(part["madds"]),
        )
    table.add_section()
    table.add_row("total", "", "", "", short(total.params), short(total.madds))
    print_table(table)


def _title(spec: ModelSpec, size: int) -> str:
    return (
        f"{spec.name} ({spec.family}): input {size}×{size}, width {spec.width:g}, depth {spec.depth:g}, "
        f"{spec.activation}, {spec.padding} padding, BN eps {spec.bn_eps:g}"
    )


def _describe(stage: StageCost, spec: ModelSpec, plan: NetworkPlan) -> dict[str, Any]:
    blocks = plan.stages[int(stage.name.removeprefix("stages."))] if stage.name.startswith("stages.") else ()
    return {
        "part": stage.name,
        "rows": [
            {
                "block": encode_block(spec.blocks[row]),
                "kernel_groups": _kernel_groups([block for block in blocks if block.row == row]),
            }
            for row in sorted({block.row for block in blocks})
        ],
        "output": [stage.channels, *stage.size],
        "params": stage.cost.params,
        "madds": stage.cost.madds,
    }


def _kernel_groups(blocks: Sequence[BlockPlan]) -> str:
    """``3×3:40 5×5:40``, once for each kind of block that a row unrolls to."""
    kinds = []
    for block in blocks:
        groups = []
        for conv in block.convolution:
            dilation = f"d{conv.dilation}" if conv.dilation > 1 else ""
            groups.append(f"{conv.kernel_size}×{conv.kernel_size}{dilation}:{conv.out_channels}")
        kinds.append(" ".join(groups))
    return ", ".join(dict.fromkeys(kinds))
