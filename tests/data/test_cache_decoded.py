"""Whether training images are decoded once."""

from __future__ import annotations

import pytest

import effnets
from effnets.data import open_data
from effnets.data.augmentation import Augmentation
from effnets.data.dataset import CachedDataset, cache_decoded
from tests.support.drawn_classes import draw_data


@pytest.fixture
def train(tmp_path):
    return open_data(draw_data(tmp_path / "data", train=4, size=60)).train


@pytest.mark.parametrize(("least", "side"), [(0.35, 41), (0.5, 34), (1.0, 24), (0.08, 48)])
def test_images_that_fit_are_kept_as_large_as_their_smallest_crops_need(train, least, side):
    recipe = effnets.Recipe(model="any", augmentation=Augmentation(scale=(least, 1.0)))
    kept = cache_decoded(train, recipe.augmentation, 24)
    assert isinstance(kept, CachedDataset)
    assert (kept.side, kept.kept, kept.image(0).size) == (side, 12, (side, side))


@pytest.mark.parametrize(
    "changes",
    [{"cache": "none"}, {"augmentation": Augmentation(crop="padded")}, {"augmentation": Augmentation(crop="center")}],
)
def test_not_where_the_recipe_forbids_or_sees_whole_images(train, changes):
    recipe = effnets.Recipe(model="any", **changes)
    assert cache_decoded(train, recipe.augmentation, 24, mode=recipe.cache) is train


def test_not_where_they_do_not_all_fit(train):
    recipe = effnets.Recipe(model="any")
    assert cache_decoded(train, recipe.augmentation, 24, limit=3 * 41 * 41 * 12 - 1) is train
    assert cache_decoded(train, recipe.augmentation, 24, limit=3 * 41 * 41 * 12) is not train


def test_a_resumed_training_does_what_it_did(train):
    augmentation = effnets.Recipe(model="any").augmentation
    assert isinstance(cache_decoded(train, augmentation, 24, mode="none", cached=True), CachedDataset)
    assert cache_decoded(train, augmentation, 24, cached=False) is train


def test_unknown_choices_are_refused():
    with pytest.raises(effnets.ConfigError, match="cache is 'disk'; choose one of auto, none"):
        effnets.Recipe(model="any", cache="disk")
