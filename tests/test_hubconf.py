"""torch.hub on a copy of the checkout, in processes that have effnets from nowhere else."""

from __future__ import annotations

import json
import os
import runpy
import shutil
import subprocess
import sys
import sysconfig
import tomllib
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import effnets
from tests.support import ROOT, error_between, images, shake

# -S leaves out the .pth file of an editable installation, and with it all packages: they are put back by their folders.
START = """
import json, sys
packages, hub_folder, *arguments = json.loads(sys.argv[1])
sys.path += packages
import torch
torch.hub.set_dir(hub_folder)
github = {"trust_repo": True, "skip_validation": True}  # the folder is there: nobody is asked
"""


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """What torch.hub unpacks for org/effnets:main, as far as models need it."""
    folder = tmp_path_factory.mktemp("hub") / "org_effnets_main"
    for name in ("effnets", "configs"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "hubconf.py", folder)
    return folder


def run(checkout: Path, folder: Path, program: str, *arguments: object, **environment: str):
    """Run `program` in `folder`, for what it prints as JSON."""
    packages = sorted({sysconfig.get_path("purelib"), sysconfig.get_path("platlib")})
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", START + program, json.dumps([packages, str(checkout.parent), *arguments])],
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


LOAD = """
from safetensors.torch import load_file, save_file
checkout, inputs, outputs = arguments
model = torch.hub.load(checkout, "mobilenetv2_050", source="local", pretrained=True).eval()
assert checkout not in sys.path
import effnets
with torch.no_grad():
    save_file({"logits": model(load_file(inputs)["images"])}, outputs)
model.reset_classifier(7)
labels = effnets.predict(model, torch.zeros(64, 64, 3, dtype=torch.uint8).numpy(), topk=7)[0]
print(json.dumps([effnets.__file__, model.load_report.notes, len(labels)]))
"""


def test_load_from_a_folder_that_is_not_installed(checkout, tmp_path):
    folder = tmp_path / "weights"
    folder.mkdir()
    ours = shake(effnets.create_model("mobilenetv2_050"), size=64)
    effnets.save_weights(ours, folder / "mobilenetv2_050.lamb_in1k.pth", dialect="timm")
    save_file({"images": images(2, 3, 64, 64)}, tmp_path / "inputs")
    file, notes, predictions = run(
        checkout,
        tmp_path,
        LOAD,
        str(checkout),
        str(tmp_path / "inputs"),
        str(tmp_path / "outputs"),
        EFFNETS_WEIGHTS_DIR=str(folder),
    )
    assert file == str(checkout / "effnets" / "__init__.py")
    assert notes[0] == "published weights mobilenetv2_050.lamb_in1k"
    assert predictions == 7
    with torch.no_grad():
        assert error_between(ours(images(2, 3, 64, 64)), load_file(tmp_path / "outputs")["logits"]) <= 1e-6


ASK = """
names = torch.hub.list("org/effnets:main", **github)
texts = [torch.hub.help("org/effnets:main", name, **github) for name in arguments]
widths = torch.hub.load("org/effnets:main", "mixnet_s", features_only=True, **github).feature_info.channels()
messages = []
for name, options in (("mixnet_z", {}), ("mixnet_s", {"wieghts": "ft_in1k"}), ("mixnet_s", {"weights": "gone"})):
    try:
        torch.hub.load("org/effnets:main", name, **options, **github)
    except Exception as error:
        messages.append(f"{type(error).__name__}: {error}")
print(json.dumps([names, texts, widths, messages]))
"""


def test_list_help_and_mistakes(checkout, tmp_path):
    names, texts, widths, messages = run(checkout, tmp_path, ASK, "mixnet_s", "mobilenetv2_100", "mixnet_xxl")
    assert names == effnets.list_models()
    assert widths == effnets.create_model("mixnet_s", features_only=True, device="meta").feature_info.channels()
    assert texts[0].startswith("mixnet_s: 4.13 M parameters, 239.17 M multiply-adds at 224×224.\n")
    assert f"Tags, the first by default: {', '.join(effnets.list_weights('mobilenetv2_100'))}." in texts[1]
    assert "None are known for this model." in texts[2]
    unknown, misspelt, no_tag = messages
    assert unknown == "RuntimeError: Cannot find callable mixnet_z in hubconf"
    assert "wieghts" in misspelt
    assert "'gone'" in no_tag
    assert "ft_in1k" in no_tag


@pytest.fixture(scope="module")
def hubconf():
    return runpy.run_path(str(ROOT / "hubconf.py"))


def test_help_names_every_option_that_there_is(hubconf):
    for name in effnets.create_model.__kwdefaults__:
        assert f"``{name}``" in hubconf["mixnet_s"].__doc__


def test_dependencies_are_the_project_s(hubconf):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    required = {requirement.partition(">=")[0].replace("-", "_") for requirement in project["dependencies"]}
    imports = {"pillow": "PIL", "pyyaml": "yaml"}
    assert set(hubconf["dependencies"]) == {imports.get(name, name) for name in required - {"click", "rich"}}
