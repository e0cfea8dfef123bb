"""The supernet: its parts are ordinary networks, its training resumes to the bit, and it ranks candidates."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
import torch
from torch import nn

import effnets
from effnets.data.augmentation import Augmentation
from effnets.errors import ArgumentError, ConfigError, TrainingError
from effnets.search.paths import PathSampler
from effnets.search.shared_weights import SharedWeights
from effnets.search.space import SearchSpace, read_space
from effnets.search.supernet import SharedNetwork, Supernet, train_supernet
from effnets.spec.scaling import ScaleLimits
from effnets.train.checkpoint import load_state
from tests.support.drawn_classes import draw_data
from tests.support.training_process import CONTEXT

# Kernels, expansion, repeats, channels, squeeze-and-excite, dilation, grouped pointwise convolutions, a hidden layer.
SPACE = """
small:
  stem: [4, 8]
  num_classes: 3
  input_size: 16
  crop_pct: 1.0
  head: 16
  head_hidden: 12
  divisor: 4
  blocks:
    - ds_r1_k{3|3.5|3.5.7}_s1_e1_c8
    - ir_r{1|2}_k{3|7|3.5.7}_s2_e{2|3}_c{8|12}{|_se0.5}_n{re|sw}
    - ir_r1_k3_a{1|1.1}_p{1.1|1}_s1_e2_c12
"""
# ReXNet's: channels of a schedule, partial shortcuts, batch normalization within squeeze-and-excite.
REXNET = """
small:
  stem: 8
  num_classes: 3
  input_size: 16
  divisor: 1
  activation: silu
  channels: {start: [8, 12], growth: [10, 20]}
  blocks:
    - lb_r1_k3_s1_e1
    - lb_r2_k3_s2_e3_se{1/4|1/2}
"""


def read(folder: Path, text: str = SPACE) -> SearchSpace:
    folder.mkdir(exist_ok=True)
    (folder / "space.yaml").write_text(text)
    return read_space(folder / "space.yaml")


def small_recipe(**changes: object) -> effnets.Recipe:
    recipe = effnets.Recipe(
        model="small",
        weights="random",
        epochs=2,
        batch_size=12,
        epoch_repeats=1,
        learning_rate=5e-3,
        workers=0,
        precision="float32",
        augmentation=Augmentation(crop="padded"),
    )
    return replace(recipe, **changes)


def network_of(space: SearchSpace) -> SharedNetwork:
    """The shared network, with no weight at its neutral value."""
    torch.manual_seed(0)
    network = SharedNetwork(space, small_recipe(), ("a", "b", "c"), PathSampler(space, seed=0))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn(parameter.shape) * 0.1)
    return network


def some_picks(space: SearchSpace, count: int = 12) -> list[tuple[int, ...]]:
    sampler = PathSampler(space, seed=1)
    return [sampler.smallest, sampler.largest, *(sampler(number) for number in range(count))]


def madds(space: SearchSpace, picks: tuple[int, ...]) -> int:
    return effnets.count(space.spec(picks)).madds


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_data(tmp_path_factory.mktemp("data"), train=20, val=8, test=0, size=16)


@pytest.fixture(scope="module")
def space(tmp_path_factory: pytest.TempPathFactory) -> SearchSpace:
    return read(tmp_path_factory.mktemp("space"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("supernet") / "run"


@pytest.fixture(scope="module")
def supernet(space: SearchSpace, data: Path, folder: Path) -> Supernet:
    return train_supernet(space, data, small_recipe(), folder, seed=3)


@pytest.mark.parametrize("text", [SPACE, REXNET, SPACE.replace("c{8|12}", "dilated_c{8|12}")])
def test_a_path_computes_what_the_ordinary_network_does(tmp_path: Path, text: str) -> None:
    space = read(tmp_path, text)
    network, images = network_of(space).train(), torch.randn(6, 3, 16, 16)
    for picks in some_picks(space):
        ordinary = effnets.create_model(space.spec(picks))
        ordinary.load_state_dict(network.create_network(picks).state_dict(), strict=True)
        torch.testing.assert_close(network.run(picks, images), ordinary.train()(images), rtol=1e-4, atol=1e-5)


def test_parts_are_leading_channels_and_middles_of_kernels(space: SearchSpace) -> None:
    network = network_of(space)
    layers = network.weights.layers
    shared = layers["rows_1_0_depthwise_conv"].weight
    assert shared.shape == (24, 1, 7, 7)
    by_name = {choice.name: place for place, choice in enumerate(space.choices)}

    def parts(**options: int) -> dict[str, torch.Tensor]:
        picks = [*space.default]
        for name, index in options.items():
            picks[by_name[f"blocks.2.{name}"]] = index
        return network.weights.parts(network.network(tuple(picks)))

    plain, mixed, wide = parts(), parts(k=2), parts(e=1)
    assert torch.equal(plain["stages.1.0.depthwise.conv.weight"], shared[:16, :, 2:5, 2:5])
    assert torch.equal(mixed["stages.1.0.depthwise.conv.0.weight"], shared[:6, :, 2:5, 2:5])
    assert torch.equal(mixed["stages.1.0.depthwise.conv.1.weight"], shared[6:11, :, 1:6, 1:6])
    assert torch.equal(mixed["stages.1.0.depthwise.conv.2.weight"], shared[11:16])
    assert torch.equal(wide["stages.1.0.depthwise.conv.weight"], shared[:24, :, 2:5, 2:5])
    assert torch.equal(plain["stages.1.0.expand.bn.bias"], layers["rows_1_0_expand_bn"].bias[:16])
    assert torch.equal(plain["classifier.weight"], layers["classifier"].weight)
    assert network.weights.layers["stem_conv"].weight.shape == (8, 3, 3, 3)


def test_every_shared_weight_is_some_candidates(space: SearchSpace) -> None:
    network = network_of(space)
    for picks in some_picks(space, 60):
        network.run(picks, torch.randn(4, 3, 16, 16)).square().sum().backward()
    assert all((parameter.grad != 0).any() for parameter in network.parameters() if parameter.grad is not None)
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_gradients_flow_only_where_a_candidate_has_weights(space: SearchSpace) -> None:
    network = network_of(space)
    network.run(space.default, torch.randn(4, 3, 16, 16)).square().sum().backward()
    layers = network.weights.layers
    depthwise = layers["rows_1_0_depthwise_conv"].weight.grad
    assert (depthwise[:16, :, 2:5, 2:5] != 0).any()
    depthwise[:16, :, 2:5, 2:5] = 0
    assert not depthwise.any()
    assert layers["rows_1_1_depthwise_conv"].weight.grad is None  # a block that the first options lack
    assert layers["rows_1_0_se_reduce"].weight.grad is None


def test_kernels_that_no_decay_is_for_are_told_apart(space: SearchSpace) -> None:
    layers = network_of(space).weights.layers
    grouped = {place for place, layer in layers.items() if isinstance(layer, nn.Conv2d) and layer.groups > 1}
    assert grouped == {place for place in layers if place.endswith("depthwise_conv")}


def test_candidates_larger_than_the_shared_weights_are_refused(space: SearchSpace) -> None:
    small = effnets.create_model(space.spec(space.default), device="meta")
    sampler = PathSampler(space, seed=0)
    with pytest.raises(ConfigError, match=r"small: stem\.conv\.weight is \(8, 3, 3, 3\), larger than the shared"):
        SharedWeights([small]).parts(effnets.create_model(space.spec(sampler.largest), device="meta"))


def test_paths_are_functions_of_seed_and_number_within_the_limits(space: SearchSpace) -> None:
    smallest, largest = (madds(space, picks) for picks in some_picks(space, 0))
    for share in (0.05, 0.5):
        limits = ScaleLimits(max_madds=smallest + share * (largest - smallest))
        sampler = PathSampler(space, seed=5, limits=limits)
        picks = [sampler(number) for number in range(24)]
        assert all(madds(space, each) <= limits.max_madds for each in [*picks, sampler.largest])
        assert len(set(picks)) > 3
        again = PathSampler(space, seed=5, limits=limits)
        assert [again(number) for number in reversed(range(24))] == picks[::-1]
        assert [PathSampler(space, seed=6, limits=limits)(number) for number in range(24)] != picks


def test_options_are_drawn_evenly(space: SearchSpace) -> None:
    sampler = PathSampler(space, seed=0)
    picks = [sampler(number) for number in range(600)]
    for place, choice in enumerate(space.choices):
        counts = [sum(each[place] == index for each in picks) for index in range(len(choice.options))]
        assert min(counts) > 0.8 * 600 / len(choice.options), (choice, counts)


def test_a_sandwich_has_the_largest_and_the_smallest_in_every_step(space: SearchSpace) -> None:
    sampler = PathSampler(space, seed=0, sampling="sandwich", passes=4)
    picks = [sampler(number) for number in range(40)]
    assert set(picks[0::4]) == {sampler.largest}
    assert set(picks[1::4]) == {sampler.smallest}
    assert len(set(picks[2::4] + picks[3::4])) > 10
    assert madds(space, sampler.largest) > madds(space, sampler.smallest)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"limits": ScaleLimits(max_madds=1e4)},
            r"small: no candidate keeps all limits: the smallest found needs .* M multiply-adds, ",
        ),
        (
            {"limits": ScaleLimits(max_params=100, max_madds=1e9)},
            "needs .* M parameters, max_params is 0.0001 M parameters; raise the limits",
        ),
        ({"sampling": "fair"}, "sampling is 'fair'; choose one of uniform, sandwich"),
        ({"sampling": "sandwich"}, "sampling is sandwich, and a step has 1 passes.*set accumulate to 3 or more"),
    ],
)
def test_impossible_samplings_are_refused(
    space: SearchSpace, data: Path, tmp_path: Path, arguments: dict[str, object], message: str
) -> None:
    with pytest.raises(ArgumentError, match=message):
        train_supernet(space, data, small_recipe(), tmp_path / "run", seed=0, **arguments)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"freeze": "stem"}, "the recipe's freeze is 'stem', which a supernet cannot have; leave freeze out"),
        ({"teacher": "mobilenetv1_025"}, "the recipe's teacher is 'mobilenetv1_025'"),
        ({"bn": "eval"}, "the recipe's bn is 'eval'"),
    ],
)
def test_recipes_that_no_supernet_can_have_are_refused(
    space: SearchSpace, data: Path, tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(ArgumentError, match=message):
        train_supernet(space, data, small_recipe(**changes), tmp_path / "run", seed=0)


def test_data_without_validation_images_are_refused(space: SearchSpace, tmp_path: Path) -> None:
    data = draw_data(tmp_path / "data", val=0, test=0, size=16)
    with pytest.raises(TrainingError, match="no images to validate candidates with; put some into val/, or set val_sh"):
        train_supernet(space, data, small_recipe(val_share=0.0), tmp_path / "run", seed=0)
    assert not (tmp_path / "run").exists()


def test_candidates_are_measured_alike_at_every_call(space: SearchSpace, supernet: Supernet) -> None:
    picks = some_picks(space)[-1]
    before = {name: tensor.clone() for name, tensor in supernet.network.state_dict().items()}
    state, top1 = supernet.state_dict(picks), supernet.evaluate(picks)
    supernet.evaluate(space.default)
    assert supernet.evaluate(picks) == top1
    again = supernet.state_dict(picks)
    assert all(torch.equal(state[name], again[name]) for name in state)
    after = supernet.network.state_dict()
    assert all(torch.equal(after[name], before[name]) for name in before)  # measuring changes nothing


def test_what_is_measured_is_what_the_state_computes(space: SearchSpace, supernet: Supernet, data: Path) -> None:
    for picks in some_picks(space, 2):
        model = effnets.create_model(space.spec(picks))
        model.load_state_dict(supernet.state_dict(picks), strict=True)
        assert all(norm.running_var.std() > 0 for norm in model.modules() if isinstance(norm, nn.BatchNorm2d))
        evaluation = effnets.evaluate(model.eval(), data / "val")
        assert evaluation.top1 == pytest.approx(supernet.evaluate(picks))


def test_training_learns(space: SearchSpace, supernet: Supernet) -> None:
    assert max(supernet.evaluate(picks) for picks in some_picks(space, 4)) > 40  # of three classes


@pytest.mark.parametrize("sampling", ["uniform", "sandwich"])
def test_an_interrupted_training_ends_with_the_same_weights(
    space: SearchSpace, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sampling: str
) -> None:
    accumulate = 3 if sampling == "sandwich" else 1
    recipe = small_recipe(checkpoint_minutes=0.0, batch_size=6, accumulate=accumulate)  # one after every step

    def train(name: str) -> Supernet:
        return train_supernet(space, data, recipe, tmp_path / name, seed=4, sampling=sampling)

    class Killed(BaseException):
        pass

    reference = train("undisturbed").network.state_dict()
    passes = 0
    forward = SharedNetwork.forward

    def interrupting(self: SharedNetwork, images: torch.Tensor) -> torch.Tensor:
        nonlocal passes
        passes += 1
        if passes in (5, 14):
            raise Killed
        return forward(self, images)

    monkeypatch.setattr(SharedNetwork, "forward", interrupting)
    for _ in range(2):
        with pytest.raises(Killed):
            train("killed")
    state = train("killed").network.state_dict()
    assert state.keys() == reference.keys()
    assert all(torch.equal(state[name], reference[name]) for name in reference)
    assert load_state(tmp_path / "killed" / "last")["progress"]["done"]


@pytest.mark.parametrize("kills", [2, pytest.param(10, marks=pytest.mark.full)])
def test_a_killed_training_ends_with_the_same_weights(
    space: SearchSpace, data: Path, tmp_path: Path, kills: int
) -> None:
    """In processes that are killed at random moments, with a checkpoint after every step."""
    recipe, moments = small_recipe(epochs=6 * kills, checkpoint_minutes=0.0, batch_size=6), Random(kills)
    _train(space, data, recipe, tmp_path / "undisturbed")
    state = tmp_path / "killed" / "last" / "state.pt"
    before, killed = None, 0
    process = CONTEXT.Process(target=_train, args=(space, data, recipe, tmp_path / "killed"))
    process.start()
    while process.is_alive() and killed < kills:
        now = state.stat().st_mtime_ns if state.exists() else None
        if now == before:
            time.sleep(0.02)
            continue
        time.sleep(moments.uniform(0, 0.3))
        process.kill()
        process.join()
        killed += 1
        load_state(state.parent)  # whatever is there is whole
        before = state.stat().st_mtime_ns
        process = CONTEXT.Process(target=_train, args=(space, data, recipe, tmp_path / "killed"))
        process.start()
    process.join(240)
    assert process.exitcode == 0
    assert killed == kills
    found, expected = load_state(state.parent), load_state(tmp_path / "undisturbed" / "last")
    assert found is not None
    assert expected is not None
    assert all(torch.equal(found["network"][name], value) for name, value in expected["network"].items())


def _train(space: SearchSpace, data: Path, recipe: effnets.Recipe, folder: Path) -> None:
    torch.set_num_threads(1)
    train_supernet(space, data, recipe, folder, seed=3)


def test_a_finished_training_is_loaded(
    space: SearchSpace, supernet: Supernet, data: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SharedNetwork, "forward", None)
    loaded = train_supernet(space, data, small_recipe(), folder, seed=3)
    state, reference = loaded.network.state_dict(), supernet.network.state_dict()
    assert all(torch.equal(state[name], reference[name]) for name in reference)
    picks = some_picks(space)[-1]
    assert loaded.evaluate(picks) == supernet.evaluate(picks)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"recipe": small_recipe(epochs=3)}, r"was started with other settings \(epochs 2 → 3\)"),
        ({"seed": 4}, "seed 3 → 4"),
        ({"limits": ScaleLimits(max_madds=1e9)}, "max_madds None → 1000000000"),
        ({"text": SPACE.replace("3.5.7}_s1", "3.7}_s1")}, r"choices .*'3\.5\.7'.* → .*'3\.7'"),
        ({"text": SPACE.replace("head: 16", "head: 20")}, "network [0-9a-f]{16} → [0-9a-f]{16}.*name another folder"),
    ],
)
@pytest.mark.usefixtures("supernet")
def test_other_settings_are_refused_by_name(
    space: SearchSpace, data: Path, folder: Path, tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    if "text" in changes:
        space, changes = read(tmp_path, str(changes["text"])), {}
    arguments = {"recipe": small_recipe(), "seed": 3}
    with pytest.raises(TrainingError, match=message):
        train_supernet(space, data, folder=folder, **(arguments | changes))


@pytest.mark.usefixtures("supernet")
def test_other_data_are_refused(space: SearchSpace, folder: Path, tmp_path: Path) -> None:
    data = draw_data(tmp_path / "data", train=21, val=8, test=0, size=16)
    with pytest.raises(TrainingError, match="is not the data this training was started with"):
        train_supernet(space, data, small_recipe(), folder, seed=3)


def test_progress_is_shown(space: SearchSpace, data: Path, tmp_path: Path) -> None:
    seen: list[tuple[str, float]] = []
    train_supernet(
        space, data, small_recipe(epochs=1), tmp_path / "run", seed=0, progress=lambda *what: seen.append(what)
    )
    assert seen[-1][0].startswith("epoch 1/1, loss ")
    assert seen[-1][1] == 1.0
    settings = json.loads((tmp_path / "run" / "supernet.json").read_text())
    assert settings["sampling"] == "uniform"
    assert settings["choices"]["stem"] == [4, 8]
