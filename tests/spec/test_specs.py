"""The classes that describe networks: frozen, slotted, and given by keyword only."""

from __future__ import annotations

import dataclasses

import pytest

from effnets.spec import block_string as grammar
from effnets.spec import cost, plan
from effnets.spec import decode as entry
from effnets.spec import specs as spec
from effnets.spec.specs import BlockSpec, ChannelSchedule, ModelSpec, PreprocessSpec

DATACLASSES = [
    value
    for module in (spec, grammar, plan, entry)
    for value in vars(module).values()
    if dataclasses.is_dataclass(value) and value.__module__ == module.__name__
]


@pytest.mark.parametrize("cls", [*DATACLASSES, cost.StageCost], ids=lambda cls: cls.__name__)
def test_description_classes_are_frozen_slotted_and_keyword_only(cls):
    assert cls.__dataclass_params__.frozen
    assert "__slots__" in vars(cls)
    assert all(field.kw_only for field in dataclasses.fields(cls))


def test_the_spec_classes_are_among_them():
    assert {BlockSpec, ChannelSchedule, PreprocessSpec, ModelSpec, plan.NetworkPlan} <= set(DATACLASSES)


def test_a_spec_cannot_be_changed():
    block = BlockSpec(type="cn", channels=8)
    with pytest.raises(dataclasses.FrozenInstanceError):
        block.stride = 2
    with pytest.raises(TypeError, match="positional"):
        BlockSpec("cn")
