"""``effnets finetune`` and ``effnets train``: settings given by hand, and what is said."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from click.testing import CliRunner

from effnets.cli import main

TABLE = """
tiny:
  stem: 8
  input_size: 16
  crop_pct: 1.0
  blocks: [ds_r1_k3_s1_e1_c8, ir_r1_k3_s2_e2_c12]
"""


def run(*arguments, status=0):
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == status, result.output + repr(result.exception)
    return " ".join(result.output.split())


@pytest.fixture
def material(tmp_path):
    from PIL import Image

    (tmp_path / "tiny.yaml").write_text(TABLE)
    for split in ("train", "test"):
        for name, color in (("red pears", (200, 20, 20)), ("Äpfel", (20, 200, 20))):
            folder = tmp_path / "data" / split / name
            folder.mkdir(parents=True)
            for number in range(10):
                Image.new("RGB", (20, 18), tuple(value + 5 * number for value in color)).save(folder / f"{number}.png")
    return tmp_path


def test_finetune_says_how_it_goes_and_what_came_of_it(material):
    output = run(
        "finetune",
        material / "data",
        "--model", material / "tiny.yaml", "--weights", "random", "--output", material / "run",
        "--epochs", 2, "--batch-size", 4, "--lr", 0.01, "--seed", 3, "--workers", 0, "--precision", "float32",
        "--set", "layer_decay=1", "--set", "augmentation.scale=[0.9, 1]", "--set", "eps=1e-7",
    )  # fmt: skip
    assert "epoch 2: loss" in output
    assert f"{material / 'run'}: validation top-1" in output
    assert "test top-1" in output
    recipe = json.loads((material / "run" / "metrics.json").read_text())["recipe"]
    assert (recipe["learning_rate"], recipe["seed"], recipe["batch_size"], recipe["eps"]) == (0.01, 3, 4, 1e-7)
    assert recipe["augmentation"]["scale"] == [0.9, 1.0]
    assert "red pears" in (material / "run" / "config.json").read_text()
    assert (material / "run" / "report.html").is_file()
    assert "red pears" in run(
        "predict", "--model", material / "run", material / "data" / "test" / "red pears" / "1.png"
    )


def test_columns_and_names_of_a_table_are_options_of_training_and_evaluation(material):
    rows = [
        f"{path.parent.parent.name},{path.relative_to(material)},{number % 2}"
        for number, path in enumerate(sorted(material.glob("data/*/*/*.png"), key=lambda path: (path.name, path)))
    ]
    table = material / "pictures.csv"
    table.write_text("\n".join(["split,where,kind", *rows]), encoding="utf-8")
    names = material / "names.txt"
    names.write_text("Äpfel\nred pears\n", encoding="utf-8")
    columns = ["--image-column", "where", "--label-column", "kind", "--class-names", names]
    output = run(
        "finetune", table, *columns, "--model", material / "tiny.yaml", "--weights", "random",
        "--output", material / "run", "--epochs", 1, "--batch-size", 4, "--workers", 0, "--precision", "float32",
    )  # fmt: skip
    assert "test top-1" in output
    output = run("eval", table, *columns, "--weights", material / "run", "--json", "-")
    assert '"class": "red pears"' in output
    assert "needed are path, label" in run("eval", table, "--weights", material / "run", status=1)
    assert "no.txt does not exist; give a text file with one class name per line" in run(
        "eval", table, "--weights", material / "run", "--class-names", material / "no.txt", status=1
    )


def test_train_takes_a_recipe_by_its_file(material):
    recipe = material / "mine.yaml"
    recipe.write_text(
        f"model: {json.dumps(str(material / 'tiny.yaml'))}\nweights: random\nepochs: 5\nbatch_size: 4\n"
        "workers: 0\nprecision: float32\n"
    )
    run("train", recipe, material / "data", "--output", material / "run", "--epochs", 1)
    assert json.loads((material / "run" / "metrics.json").read_text())["recipe"]["epochs"] == 1


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["--set", "epochs"], 2, "'epochs' is not a setting; write it like ema_decay=0"),
        (["--set", "epochs=[1"], 2, "'[1' is not a YAML value"),
        (["--set", "seed=2020-13-45"], 2, "'2020-13-45' is not a YAML value"),
        (["--set", "augmentation={mixup: 1e2}"], 1, "mixup is 100"),
        (["--set", "augmentation={mixupp: 0.2}"], 1, "unknown key 'mixupp'; did you mean 'mixup'?"),
        (["--set", "epocs=3"], 1, "unknown key 'epocs'; did you mean 'epochs'?"),
        (["--set", "weight_decay=-1"], 1, "weight_decay is -1; it must lie in 0..10"),
        (["--freeze", "most"], 1, "freeze is 'most'; it must be none, stem, a number of stages, stages, or backbone"),
        (["--recipe", "finetun"], 1, "no recipe 'finetun'; did you mean finetune"),
    ],
)
def test_impossible_settings_are_refused_before_anything_is_made(material, arguments, status, message):
    common = ["finetune", material / "data", "--model", material / "tiny.yaml", "--output", material / "run"]
    assert message in run(*common, *arguments, status=status)
    assert not (material / "run").exists()


def test_a_missing_data_set_is_named(material):
    output = run(
        "finetune", material / "nowhere", "--model", material / "tiny.yaml", "--weights", "random",
        "--output", material / "run", status=1,
    )  # fmt: skip
    assert "nowhere does not exist" in output
    assert not (material / "run").exists()


def test_help_and_recipes_need_no_torch():
    code = (
        "import sys\n"
        "from click.testing import CliRunner\n"
        "from effnets.cli import main\n"
        "for command in ('finetune', 'train'):\n"
        "    result = CliRunner().invoke(main, [command, '--help'])\n"
        "    assert result.exit_code == 0, result.output\n"
        "from effnets.train.recipe import find_recipe, read_recipe\n"
        "read_recipe(find_recipe('finetune'))\n"
        "heavy = {'torch', 'torchvision', 'timm', 'accelerate', 'matplotlib'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
