"""Recipes: round trip, and refusals that say where and what to do."""

from __future__ import annotations

import json
from dataclasses import fields, replace

import jsonschema
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

import effnets
from effnets.data.augmentation import Augmentation
from effnets.train.recipe import Recipe, encode_recipe, find_recipe, list_recipes, read_recipe
from effnets.utils.paths import configs_dir

RECIPES = st.builds(
    Recipe,
    model=st.sampled_from(["mixnet_s", "no", "1e3", "ein Netz: mit #"]),
    weights=st.sampled_from(["pretrained", "random", "../weights/Größe 1.h5"]),
    image_size=st.none() | st.integers(8, 8192),
    epochs=st.integers(1, 1000),
    learning_rate=st.floats(1e-6, 10),
    eps=st.none() | st.floats(1e-9, 1),
    freeze=st.sampled_from(["none", "stem", "3"]),
    bn=st.sampled_from(["train", "eval"]),
    channels_last=st.booleans(),
    teacher=st.none() | st.just("rexnet_100"),
    workers=st.none() | st.integers(0, 8),
    augmentation=st.builds(
        Augmentation,
        scale=st.tuples(st.floats(0.01, 0.5), st.floats(0.5, 1)),
        policy=st.sampled_from(["none", "randaugment"]),
        mixup=st.floats(0, 1),
    ),
)


@given(RECIPES)
def test_recipes_come_back_as_they_were(tmp_path_factory, recipe):
    path = tmp_path_factory.mktemp("recipe") / "recipe.yaml"
    path.write_text(encode_recipe(recipe), encoding="utf-8")
    assert read_recipe(path) == recipe


def test_every_setting_is_written_out():
    text = encode_recipe(Recipe(model="mixnet_s"))
    of_other_tasks = {"multilabel", "embedding", "detection"}
    assert {field.name for field in fields(Recipe) if f"\n{field.name}:" not in f"\n{text}"} == of_other_tasks
    text = encode_recipe(Recipe(model="mixnet_s", task="embed"))
    assert "\nembedding:\n  size: null\n" in text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model: x\nepoch: 3\n", r"r.yaml:2:\d+: unknown key 'epoch'; did you mean 'epochs'\?"),
        ("model: x\nfrobnicate: 3\n", r"r.yaml:2:\d+: unknown key 'frobnicate'; keys are model, task, weights, "),
        ("model: x\n\nepochs: 0\n", r"r.yaml:3: epochs is 0; it must lie in 1\.\.100000"),
        ("model: x\nepochs: 2.5\n", r"r.yaml:2:\d+: epochs is 2.5; it must be a whole number"),
        ("model: x\nepochs: true\n", r"r.yaml:2:\d+: epochs is True; it must be a whole number"),
        ("model: x\nlearning_rate: fast\n", r"r.yaml:2:\d+: learning_rate is 'fast'; it must be a number"),
        ("model: x\nlearning_rate: 0\n", r"r.yaml:2: learning_rate is 0; it must be above 0"),
        (
            "model: x\nschedule: cosin\n",
            r"r.yaml:2:\d+: schedule is 'cosin'; it must be one of cosine, exponential, constant",
        ),
        ("model: x\nfreeze: half\n", r"r.yaml:2: freeze is 'half'; it must be none, stem, a number of stages"),
        (
            "model: x\nlearning_rate: 0.1\nmin_learning_rate: 1\n",
            r"r.yaml:3: min_learning_rate is 1, above learning_rate 0\.\S+; lower it",
        ),
        (
            "model: x\naugmentation:\n  mixupp: 1\n",
            r"r.yaml:3:\d+: augmentation: unknown key 'mixupp'; did you mean 'mixup",
        ),
        ("model: x\naugmentation:\n  mixup: -1\n", r"r.yaml:3: augmentation: mixup is -1; it must lie in 0\.\.10"),
        (
            "model: x\naugmentation:\n  scale: [0.5]\n",
            r"r.yaml:3: augmentation: scale is \(0.5,\); give two parts of",
        ),
        ("model: x\naugmentation: 3\n", r"r.yaml:2:\d+: augmentation is 3; it must be a mapping such as {crop"),
        ("epochs: 3\n", r"r.yaml:1:1: 'model' is missing; add model: a model's name"),
        ("- 1\n", r"r.yaml: holds no settings; write lines such as 'epochs: 10'"),
        ("model: x\nmodel: y\n", r"r.yaml:2:1: 'model' is here twice"),
        ("model: x\nfreeze: backbone\nweights: random\n", r"freeze is backbone, and weights are random"),
        ("model: x\nfreeze: backbone\nteacher: y\n", r"teacher is for a network that learns"),
        ("model: x\ndistillation_type: embedding\n", r"r.yaml:1: teacher is missing, .*; name one"),
        ("model: x\nteacher_weights: y\n", r"r.yaml:1: teacher is missing, .*; name one"),
        (
            "model: x\nteacher: y\nteacher_share: 1\ndistillation_type: features\n",
            r"r.yaml:3: teacher_share is 1, and with distillation_type: features the classifier then learns nothing",
        ),
        ("model: x\nteacher: y\ndistillation_stage: 1\n", r"r.yaml:3: distillation_stage is for .*features; omit"),
        ("model: x\nteacher: y\ndistillation_normalize: true\n", r"r.yaml:3: distillation_normalize is not for logits"),
    ],
)
def test_impossible_recipes_are_refused_where_they_stand(tmp_path, text, message):
    path = tmp_path / "r.yaml"
    path.write_text(text)
    with pytest.raises(effnets.ConfigError, match=message):
        read_recipe(path)


def test_changes_go_before_the_file_and_are_checked_alike(tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text("model: x\nepochs: 3\naugmentation: {mixup: 0.2, cutmix: 1}\n")
    recipe = read_recipe(path, {"epochs": 5, "augmentation.mixup": 0.4, "freeze": 2})
    assert (recipe.epochs, recipe.augmentation.mixup, recipe.augmentation.cutmix, recipe.freeze) == (5, 0.4, 1.0, "2")
    # As in a file, whoever states any of the augmentation states all of it.
    recipe = read_recipe(path, {"augmentation": {"mixup": 0.4, "scale": [0.5, 1]}})
    assert (recipe.augmentation.mixup, recipe.augmentation.cutmix, recipe.augmentation.scale) == (0.4, 0.0, (0.5, 1.0))
    path.write_text("model: x\nepochs: 3\n")
    recipe = read_recipe(path, {"augmentation.mixup": 0.4})
    assert recipe.augmentation == replace(Recipe(model="x").augmentation, mixup=0.4)  # one setting, not all
    with pytest.raises(effnets.ConfigError, match=r"^epochs is 0; it must lie in"):
        read_recipe(path, {"epochs": 0})
    with pytest.raises(effnets.ConfigError, match=r"^unknown key 'epocs'; did you mean 'epochs'\?"):
        read_recipe(path, {"epocs": 0})
    with pytest.raises(effnets.ConfigError, match="holds no settings called mixup"):
        read_recipe(path, {"model.mixup": 0})


def test_recipes_that_come_along_are_found_and_read():
    names = list_recipes()
    assert "finetune" in names
    validator = jsonschema.Draft202012Validator(json.loads((configs_dir() / "recipe-schema.json").read_text()))
    for name in names:
        path = find_recipe(name)
        assert read_recipe(path).model
        assert path.read_text().startswith("# yaml-language-server: $schema=../recipe-schema.json\n")
        validator.validate(yaml.safe_load(path.read_text()))
    assert validator.is_valid({"model": "x", "freeze": 3, "augmentation": {"scale": [0.5, 1]}})
    for wrong in ({"epochs": 3}, {"model": "x", "epochs": 0}, {"model": "x", "augmentation": {"mixupp": 1}}):
        assert not validator.is_valid(wrong)
    with pytest.raises(effnets.ConfigError, match="no recipe 'finetun'; did you mean finetune"):
        find_recipe("finetun")
    with pytest.raises(effnets.MissingFileError, match=r"nowhere\.yaml: no such file"):
        read_recipe(find_recipe("nowhere.yaml"))
