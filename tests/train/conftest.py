"""A training of seconds, once for each file of tests."""

from __future__ import annotations

import pytest

import effnets
from effnets.data.augmentation import Augmentation
from tests.support.drawn_classes import draw_data, write_table


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    draw_data(folder / "data", train=24, val=8, test=8)
    return folder


@pytest.fixture(scope="module")
def recipe(folder):
    return effnets.Recipe(
        model=str(write_table(folder)),
        weights="random",
        epochs=4,
        batch_size=12,
        learning_rate=5e-3,
        layer_decay=1.0,
        workers=0,
        precision="float32",
        augmentation=Augmentation(scale=(0.7, 1.0)),
    )


@pytest.fixture(scope="module")
def trained(folder, recipe):
    return effnets.finetune(recipe, folder / "data", folder / "run", command="effnets finetune …")
