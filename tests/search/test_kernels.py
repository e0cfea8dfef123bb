"""The kernel study: its networks, its claims on made-up figures, its files, and the command on drawn data."""

from __future__ import annotations

import csv
import json
from dataclasses import replace

import pytest
from click.testing import CliRunner

import effnets
from effnets.cli import main
from effnets.errors import ArgumentError
from effnets.search.kernel_claims import check_claims, pooled_deviation
from effnets.search.kernels import KernelRun, KernelSettings, left_out, list_variants, pick_layers, study_kernels
from effnets.search.kernels_report import kernel_study_files
from effnets.search.trainings import TrainingResult
from effnets.spec.cost import count
from effnets.spec.models import load_spec
from effnets.spec.plan import make_plan
from tests.support.drawn_classes import draw_data


def made_up(settings, top1):
    """Runs as if trained, with top-1 from a function of variant and seed."""
    return [
        KernelRun(
            variant=variant,
            seed=seed,
            result=TrainingResult(
                val_top1=0.0, test_top1=top1(variant, seed), seconds=60.0, params=1000, madds=count(variant.spec).madds
            ),
        )
        for seed in range(settings.seeds)
        for variant in list_variants(settings)
    ]


def verdicts(claims):
    return {(claim.figure, claim.text): claim.verdict for claim in claims}


def test_networks_of_every_figure():
    settings = KernelSettings(width=0.5)
    variants = {variant.name: variant for variant in list_variants(settings)}
    assert not left_out(settings)
    assert len(variants) == 2 * (1 + 4 + 4 + 3 + 4) + 12
    exponential = variants["mobilenetv1_k3_5_7_exponential"]
    assert all(block.exponential and block.kernel_sizes == (3, 5, 7) for block in exponential.spec.blocks)
    assert exponential.largest == 7
    one = variants["mobilenetv2_layer4_k9"]
    assert [block.kernel_sizes for block in one.spec.blocks] == [(9,) if layer == 4 else (3,) for layer in range(1, 18)]
    assert (one.layer, one.strided) == (4, True)
    for variant in variants.values():
        make_plan(replace(variant.spec, num_classes=10))


def test_a_row_for_every_block_makes_the_same_network():
    (base,) = [v for v in list_variants(KernelSettings(width=1.0)) if v.name == "mobilenetv2_k3"]
    rows = [replace(block, row=0) for block in make_plan(base.spec).blocks]
    assert rows == [replace(block, row=0) for block in make_plan(load_spec("mobilenetv2_100_32px")).blocks]


def test_layers_with_stride_come_first():
    blocks = next(v for v in list_variants(KernelSettings()) if v.network == "mobilenetv2").spec.blocks
    assert pick_layers(blocks, 2) == [4, 7]
    six = pick_layers(blocks, 6)
    assert len(six) == 6
    assert {4, 7, 14} < set(six)
    assert pick_layers(blocks, 99) == list(range(2, 18))


def test_networks_without_channels_for_their_kernels_are_said():
    settings = KernelSettings(figures=(4, 6))
    missing = [variant.name for variant in left_out(settings)]
    assert missing == [f"{network}_k3_5_7_9_11_exponential" for network in ("mobilenetv1", "mobilenetv2")]
    assert not set(missing) & {variant.name for variant in list_variants(settings)}


def test_figures_choose_networks():
    names = [variant.name for variant in list_variants(KernelSettings(figures=(1,), largest=7))]
    assert names == [f"{network}_k{size}" for network in ("mobilenetv1", "mobilenetv2") for size in (3, 5, 7)]
    only = list_variants(KernelSettings(figures=(5,), layers=1))
    assert [variant.name for variant in only] == [
        "mobilenetv2_k3",
        "mobilenetv2_layer4_k9",
        "mobilenetv2_layer4_k3_5_7_9",
    ]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"figures": (2,)}, "figures is '2'; choose from 1, 4, 5, 6, each once"),
        ({"figures": ()}, "figures is ''; choose from"),
        ({"networks": ("mobilenetv2", "mobilenetv2")}, "each once"),
        ({"networks": ("mobilenetv1",)}, "figure 5 is about mobilenetv2; add it to networks"),
        ({"largest": 4}, "largest is 4; choose from 5, 7, 9, 11"),
        ({"width": 3}, "width is 3; give a number from 0.1 to 2"),
        ({"layers": 0}, "layers is 0; it must be at least 1"),
        ({"seeds": 0}, "seeds is 0; it must be at least 1"),
    ],
)
def test_bad_settings(changes, message):
    with pytest.raises(ArgumentError, match=message):
        KernelSettings(**changes)


def test_claims_that_the_figures_support():
    """Accuracy as the paper has it: mixed grows with the largest size, plain falls from 9, dilation costs."""

    def top1(variant, seed):
        plain = {3: 40.0, 5: 42.0, 7: 43.0, 9: 41.0, 11: 38.0}
        value = 40.0 + 0.6 * variant.largest if "." in variant.kernels else plain[variant.largest]
        value -= 4.0 * ("dilated" in variant.kernels and variant.largest > 5)
        if variant.layer is not None:
            value = 42.0 if variant.strided else 40.0
        return value + 0.1 * (seed - 1)

    claims = check_claims(made_up(KernelSettings(), top1))
    assert {claim.verdict for claim in claims} == {"supported"}
    assert len(claims) == 2 * 8 + 3
    (rise,) = [c for c in claims if c.text.startswith("plain kernels of 5×5") and c.network == "mobilenetv1"]
    assert rise.difference == pytest.approx(2.5)
    assert rise.error == pytest.approx(0.1 * (1.5 / 3) ** 0.5)
    assert rise.found == "+2.50 ± 0.14 points"


def test_claims_that_the_figures_contradict_or_cannot_tell():
    settings = KernelSettings(figures=(1,), networks=("mobilenetv1",))
    falling = check_claims(made_up(settings, lambda variant, seed: 50 - variant.largest + 0.1 * seed))
    assert [claim.verdict for claim in falling] == ["not supported", "supported"]
    noisy = check_claims(made_up(settings, lambda variant, seed: 50 - 0.1 * variant.largest + 9 * seed))
    assert {claim.verdict for claim in noisy} == {"undecided"}
    one_seed = check_claims(made_up(replace(settings, seeds=1), lambda variant, _seed: 50.0 + variant.largest))
    assert [(claim.verdict, claim.error) for claim in one_seed] == [("undecided", None)] * 2


def test_spread_of_seeds_is_pooled():
    assert pooled_deviation([[1.0, 3.0], [5.0, 5.0, 5.0], [7.0]]) == pytest.approx((2 / 3) ** 0.5)
    assert pooled_deviation([[1.0], []]) is None


def test_files_of_a_study():
    settings = KernelSettings(layers=3, seeds=2)
    runs = made_up(settings, lambda variant, seed: 40 + variant.largest + 0.1 * seed)
    recipe = effnets.Recipe(model="unused", epochs=2)
    files = kernel_study_files(settings, runs, recipe=recipe, data="photos", command="effnets study kernels photos")
    assert set(files) == {
        *("kernels.csv", "kernels.json", "README.md"),
        *(f"figure-{number}.svg" for number in (1, 4, 5, 6)),
    }
    rows = list(csv.DictReader(files["kernels.csv"].splitlines()))
    assert len(rows) == len(runs)
    assert rows[0]["name"] == "mobilenetv1_k3"
    assert float(rows[0]["test_top1"]) == runs[0].result.top1
    document = json.loads(files["kernels.json"])
    assert document["settings"]["seeds"] == 2
    assert len(document["claims"]) == len(check_claims(runs))
    text = files["README.md"]
    assert "channels than the kernels need: mobilenetv1_k3_5_7_9_11_exponential, " in text
    assert "| mobilenetv2 | k3.5.7, dilated | all |" in text
    assert "| mobilenetv2 | k9 | 4, stride 2 |" in text
    assert "2 epochs of photos" in text
    assert all(f"]({name})" in text for name in files if name.endswith(".svg"))
    assert files["figure-4.svg"].startswith("<svg")


def test_trainings_go_seed_by_seed_into_their_own_folders(tmp_path, monkeypatch):
    calls, shares = [], []

    def train(spec, _data, _recipe, folder, *, seed, progress):
        calls.append((spec.name, folder.relative_to(tmp_path).as_posix(), seed))
        progress("training", 0.5)
        return TrainingResult(val_top1=40.0, test_top1=None, seconds=1.0, params=1, madds=1)

    monkeypatch.setattr("effnets.search.trainings.train_candidate", train)
    settings = KernelSettings(figures=(1,), networks=("mobilenetv1",), largest=5, seeds=2)
    runs = study_kernels(
        settings, "data", effnets.Recipe(model="unused"), tmp_path, progress=lambda *seen: shares.append(seen)
    )
    assert [run.result.top1 for run in runs] == [40.0] * 4
    assert calls[1] == ("mobilenetv1_k5", "trainings/mobilenetv1_k5-seed0", 0)
    assert [seed for _, _, seed in calls] == [0, 0, 1, 1]
    assert shares[2] == ("mobilenetv1_k3, seed 1: training", 0.625)


def test_the_command_and_its_resumption(tmp_path, monkeypatch):
    data = draw_data(tmp_path / "data", train=6, val=2, test=2)
    output = tmp_path / "study"
    words = ["study", "kernels", str(data), "--output", str(output), "--figures", "1", "--networks", "mobilenetv1"]
    words += ["--largest", "5", "--width", "0.1", "--seeds", "1"]
    result = CliRunner().invoke(main, [*words, "--epochs", "1"])
    assert result.exit_code == 0, result.output
    assert "2 of 2: mobilenetv1_k5, seed 0: " in result.output
    assert (
        "undecided: figure 1, mobilenetv1: plain kernels of 5×5 and 7×7 are more accurate than of 3×3" in result.output
    )
    assert {path.name for path in output.iterdir()} == {
        *("trainings", "kernels.csv", "kernels.json", "README.md", "figure-1.svg")
    }
    before = (output / "kernels.csv").read_text()
    (output / "kernels.csv").unlink()
    again = CliRunner().invoke(main, [*words, "--epochs", "1"])
    assert again.exit_code == 1
    assert "holds something already" in again.output
    monkeypatch.setattr("effnets.train.run.Run.setup", lambda *_, **__: pytest.fail("trained again"))
    resumed = CliRunner().invoke(main, [*words, "--epochs", "1", "--resume"])
    assert resumed.exit_code == 0, resumed.output
    assert (output / "kernels.csv").read_text() == before
    other = CliRunner().invoke(main, [*words, "--epochs", "2", "--resume"])
    assert other.exit_code == 1
    assert "epochs 1 → 2" in other.output


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--figures", "one"], "--figures is 'one'; write some of 1, 4, 5, 6, as 1,4"),
        (["--figures", "3"], "figures is '3'; choose from"),
        (["--recipe", "cifar10"], "no recipe 'cifar10'; did you mean"),
    ],
)
def test_bad_options_of_the_command(tmp_path, words, message):
    result = CliRunner().invoke(main, ["study", "kernels", "data", "--output", str(tmp_path / "study"), *words])
    assert result.exit_code != 0
    assert message in result.output
    assert not (tmp_path / "study").exists()
