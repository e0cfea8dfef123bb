"""Ranks of features: a small curve pinned, matrices of known rank, the conclusions, the folder, trained networks."""

from __future__ import annotations

import csv
import json
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
import torch
from click.testing import CliRunner

import effnets
from effnets.cli import main
from effnets.errors import ArgumentError, ExportError
from effnets.search.rank import RankPoint, RankSettings, gram, rank_ratios, study_ranks
from effnets.search.rank_conclusions import check_conclusions
from effnets.search.study_folder import check_study_folder, write_study_folder
from effnets.search.trained_rank import layer_ranks
from tests.support import SHARED, needs_shared

SMALL = RankSettings(
    networks=3,
    layers=("conv1x1", "inverted_bottleneck"),
    activations=("linear", "relu", "elu", "silu"),
    ratios=(0.1, 1 / 6, 0.5),
    channels=(128, 160),
    thresholds=(),
)
# Computed by this program; the order of the activations and the fall of each curve are the paper's figure 1.
PINNED = {
    ("conv1x1", "linear"): (0.0997, 0.1670, 0.4989),
    ("conv1x1", "relu"): (0.6852, 0.8961, 1.0),
    ("conv1x1", "elu"): (0.7082, 0.9672, 1.0),
    ("conv1x1", "silu"): (0.7539, 0.9935, 1.0),
    ("inverted_bottleneck", "relu"): (0.5982, 0.9306, 1.0),
    ("inverted_bottleneck", "silu"): (0.5982, 0.9327, 1.0),
}


@pytest.fixture(scope="module")
def points():
    return study_ranks(SMALL)


def curve(points, layer, activation):
    return [point.mean for point in points if (point.layer, point.activation) == (layer, activation)]


def test_a_small_curve_is_as_it_was(points):
    for (layer, activation), expected in PINNED.items():
        assert curve(points, layer, activation) == pytest.approx(expected, abs=0.006), (layer, activation)


def test_curves_have_the_papers_order(points):
    linear, relu, elu, silu = (curve(points, "conv1x1", name) for name in SMALL.activations)
    assert linear == sorted(linear)
    for smooth in (elu, silu):
        assert all(a > b > c for a, b, c in zip(smooth[:2], relu[:2], linear[:2], strict=True))


def test_a_network_is_the_same_whatever_else_is_measured(points):
    alone = study_ranks(
        RankSettings(networks=3, layers=("conv1x1",), activations=("silu",), ratios=(0.5, 0.1), channels=(128, 160))
    )
    assert [p.mean for p in alone if p.threshold == 0.03][::-1] == pytest.approx(
        [curve(points, "conv1x1", "silu")[0], curve(points, "conv1x1", "silu")[2]], abs=0.003
    )


def test_another_seed_gives_other_networks(points):
    other = study_ranks(RankSettings(seed=1, networks=3, layers=("conv1x1",), activations=("relu",), ratios=(0.1,),
                                     channels=(128, 160)))  # fmt: skip
    assert other[0].mean != curve(points, "conv1x1", "relu")[0]


@pytest.mark.parametrize("rank", [1, 5, 12])
def test_the_rank_of_a_matrix_of_known_rank(rank):
    generator = torch.Generator().manual_seed(rank)
    left, right = torch.randn(16, rank, generator=generator), torch.randn(rank, 100, generator=generator)
    features = (left @ right).reshape(16, 4, 5, 5).transpose(0, 1)  # [N, C, H, W]
    assert rank_ratios(gram(features), [0.003, 0.01]) == [rank / 16] * 2
    values = np.linalg.svd((left @ right).numpy(), compute_uv=False)
    expected = [float((values > t * values[0]).mean()) for t in (0.5, 0.9)]
    assert rank_ratios(gram(features), [0.5, 0.9]) == expected


def test_no_features_have_no_rank():
    assert rank_ratios(gram(torch.zeros(2, 3, 4, 4)), [0.03]) == [0.0]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"activations": ("relu", "mish")}, "activations has 'mish'; choose from linear, relu"),
        ({"activations": ()}, "activations is empty; choose from"),
        ({"layers": ("conv5x5",)}, "layers has 'conv5x5'; choose from conv1x1"),
        ({"threshold": 1e-9}, "threshold is 1e-09; it is a share of the largest singular value"),
        ({"threshold": float("nan")}, "threshold is nan"),
        ({"networks": 0}, "networks is 0; it must be at least 1"),
        ({"ratios": (0.5, 2)}, "give channel ratios above 0 and at most 1"),
        ({"channels": (64, 8)}, "give the least and the greatest, from 8 to 4096"),
    ],
)
def test_settings_out_of_range(settings, message):
    with pytest.raises(ArgumentError, match=message):
        RankSettings(**settings)


def made_up(activation, *means, layer="conv1x1", ratios=(0.1, 1 / 6, 0.5)):
    return [
        RankPoint(layer=layer, activation=activation, ratio=r, threshold=0.03, mean=m, error=0.001, networks=9)
        for r, m in zip(ratios, means, strict=True)
    ]


def test_conclusions_hold_or_not():
    good = [*made_up("linear", 0.1, 0.17, 0.5), *made_up("relu", 0.6, 0.8, 0.9), *made_up("silu", 0.7, 0.9, 1.0)]
    assert [entry.holds for entry in check_conclusions(good, 0.03)] == [True, True, True]
    flat = [*made_up("linear", 0.1, 0.17, 0.5), *made_up("relu", 0.8, 0.8, 0.9), *made_up("silu", 0.7, 0.9, 1.0)]
    assert [entry.holds for entry in check_conclusions(flat, 0.03)] == [False, True, False]
    loses = [*made_up("linear", 0.1, 0.17, 0.5), *made_up("relu", 0.2, 0.4, 0.4)]
    found = check_conclusions(loses, 0.03)
    assert [entry.holds for entry in found] == [True, False]
    assert "relu -0.10 (at 0.50)" in found[1].found


def test_where_the_activation_belongs():
    after = made_up("relu", 0.7, 0.8, 0.995, layer="depthwise_act_after_depthwise")
    before = made_up("relu", 0.9, 0.9, 0.99, layer="depthwise_act_after_expansion")
    (conclusion,) = check_conclusions([*after, *before], 0.03)
    assert conclusion.holds
    assert "relu +0.10 to +0.20 (2 of 2 above)" in conclusion.found


def test_conclusions_without_their_curves_are_left_out():
    assert check_conclusions(made_up("relu", 0.5, 0.6, 0.7, layer="depthwise"), 0.03) == []
    assert check_conclusions(made_up("relu", 0.5, 0.6, 0.7), 0.1) == []


def run(*arguments: object, status: int = 0):
    result = CliRunner().invoke(main, ["study", "rank", *map(str, arguments)])
    assert result.exit_code == status, result.output + repr(result.exception)
    return result


def test_the_command_writes_a_folder(tmp_path):
    folder = tmp_path / "study"
    result = run("--output", folder, "--networks", 1, "--activations", "linear,relu", "--layers", "conv1x1")
    assert "A nonlinearity after the expansion adds rank" in result.stdout
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", "rank.csv", "rank.json", "rank.svg"]
    rows = list(csv.DictReader((folder / "rank.csv").read_text(encoding="utf-8").splitlines()))
    document = json.loads((folder / "rank.json").read_text(encoding="utf-8"))
    assert len(rows) == len(document["points"]) == 2 * 12 * 3
    assert document["settings"]["threshold"] == 0.03
    assert document["command"].startswith("effnets")
    assert set(document["conclusions"]) == {"0.03", "0.1", "0.01"}
    assert "1×1 convolution" in "".join(ElementTree.parse(folder / "rank.svg").getroot().itertext())
    summary = (folder / "README.md").read_text(encoding="utf-8")
    assert document["command"] in summary
    assert "| relu |" in summary
    assert [path.name for path in tmp_path.iterdir()] == ["study"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "name a new folder for the study: --output DIR"),
        (("--output", "new", "--activations", "mish"), "activations has 'mish'"),
        (("--output", "full"), "full: holds something already; name a new folder for the study, or empty this one"),
        (("--output", "full/file"), "is a file; name a new folder"),
        (("--output", "missing/new"), "missing is not a folder; make it first"),
        (("--output", "new", "photo.jpg"), "are for a trained network; add --model NAME"),
        (("--model", "mobilenetv1_025"), "measures features of photographs; name some, or a folder of them"),
        (("--model", "mobilenetv1_025", "--networks", "2", "a.jpg"), "are for random networks; leave out --model"),
    ],
)
def test_errors_come_before_the_work(tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("effnets.search.rank.study_ranks", lambda *_: pytest.fail("it began to work"))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("mine")
    result = CliRunner().invoke(main, ["study", "rank", *arguments])
    assert result.exit_code in (1, 2)
    assert message in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["full"]


def test_a_place_without_write_access(tmp_path, monkeypatch):
    monkeypatch.setattr("os.access", lambda *_: False)
    with pytest.raises(ExportError, match="cannot be written there; choose another place"):
        check_study_folder(tmp_path / "new")


def test_an_empty_folder_is_taken_and_a_failure_leaves_nothing(tmp_path):
    (tmp_path / "empty").mkdir()
    write_study_folder(check_study_folder(tmp_path / "empty"), {"a.txt": "α"})
    assert (tmp_path / "empty" / "a.txt").read_text(encoding="utf-8") == "α"
    with pytest.raises(ExportError, match="cannot be written"):
        write_study_folder(tmp_path / "new", {"a.txt": "α", "b/c.txt": "no such folder"})
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]


@pytest.mark.parametrize("name", ["mobilenetv1_025", "mobilenetv2_035", "mixnet_s", "rexnet_100"])
def test_layers_of_every_family(name):
    model = effnets.create_model(name)
    images = [np.random.default_rng(n).integers(0, 256, (40, 40, 3), np.uint8) for n in range(2)]
    training = model.training
    ranks = layer_ranks(model, images, input_size=64, thresholds=(0.03,), batch_size=2)
    assert model.training is training
    assert not any(module._forward_hooks for module in model.modules())
    blocks = [row for row in ranks if row.name.startswith("stages.") and row.name[-1].isdecimal()]
    assert [row.channels for row in blocks] == [block.out_channels for block in model.plan.blocks]
    assert ranks[0].name == "stem"
    assert (ranks[0].samples, ranks[0].limited) == (2 * 32 * 32, False)
    assert all(0 < row.ranks[0] <= min(1, row.samples / row.channels) for row in ranks)
    assert ranks[-1].limited  # 8 places for all channels
    by_name = {row.name: row for row in ranks}
    if name != "mobilenetv1_025":
        assert by_name["stages.1.0.expand"].channels == by_name["stages.1.0.depthwise"].in_channels


def test_features_of_several_batches_are_those_of_one():
    model = effnets.create_model("mobilenetv2_035")
    images = [np.random.default_rng(n).integers(0, 256, (40, 40, 3), np.uint8) for n in range(3)]
    one, several = (layer_ranks(model, images, input_size=32, batch_size=size) for size in (3, 1))
    assert [row.samples for row in one] == [row.samples for row in several]
    assert [row.ranks for row in one] == [pytest.approx(row.ranks, abs=0.05) for row in several]


def test_no_images_for_a_trained_network():
    with pytest.raises(ArgumentError, match="images is empty; give photographs"):
        layer_ranks(effnets.create_model("mobilenetv1_025"), [])


@needs_shared
def test_a_trained_network_over_photographs(tmp_path):
    weights = SHARED / "weights" / "tf_mobilenetv1_025_128.timm.safetensors"
    arguments = ("--model", "tf_mobilenetv1_025", "--weights", weights, "--image-size", 64)
    result = run(*arguments, "--output", tmp_path / "ranks", SHARED / "data" / "photos")
    assert "stages.0.0.depthwise" in result.stdout
    document = json.loads((tmp_path / "ranks" / "rank.json").read_text(encoding="utf-8"))
    assert document["images"] == 10
    assert document["layers"][0]["layer"] == "stem"
    assert "fewer places" in result.stderr


@needs_shared
def test_a_broken_photograph_is_an_error(tmp_path):
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    weights = SHARED / "weights" / "tf_mobilenetv1_025_128.timm.safetensors"
    result = run("--model", "tf_mobilenetv1_025", "--weights", weights, tmp_path / "broken.jpg", status=1)
    assert "broken.jpg" in result.stderr
