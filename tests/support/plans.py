"""Networks and plans made of a few block strings, for the tests of plans and of scaling."""

from __future__ import annotations

from effnets.spec.block_string import decode_block
from effnets.spec.plan import NetworkPlan, make_plan
from effnets.spec.specs import ModelSpec


def network(*rows: str, **fields) -> ModelSpec:
    values = {"name": "net", "family": "test", "stem": 16, "blocks": tuple(map(decode_block, rows)), **fields}
    return ModelSpec(**values)


def plan_of(*rows: str, output_stride: int = 32, **fields) -> NetworkPlan:
    return make_plan(network(*rows, **fields), output_stride=output_stride)
