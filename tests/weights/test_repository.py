"""Users' networks on the Hub: push_to_hub, hf-hub: names, and what goes wrong with them."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

import effnets
from effnets.errors import ArgumentError
from effnets.spec.specs import split_repository
from effnets.weights.save import save_pretrained
from tests.support import images, shake
from tests.support.clients import Machine
from tests.support.faulty_hub import COMMIT, TOKEN, Fault, serve

REPO = "user/owls"
NAME = f"hf-hub:{REPO}"

LOADING = """
import json, sys, torch, effnets
from dataclasses import asdict
from safetensors.torch import load_file, save_file
name, folder, arguments = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
try:
    model = effnets.create_model(name, **arguments).eval()
except effnets.EffnetsError as error:
    print(json.dumps({"error": type(error).__name__, "message": str(error)}))
    sys.exit()
with torch.no_grad():
    logits = model(load_file(f"{folder}/images")["images"])
save_file({**model.state_dict(), "logits": logits}, f"{folder}/loaded")
report = model.load_report
print(json.dumps({
    "spec": repr(model.spec), "classes": model.class_names, "source": report and report.source,
    "sha256": report and report.sha256, "notes": report and report.notes,
}))
"""

PUSHING = """
import json, sys, effnets
model = effnets.create_model(sys.argv[1], pretrained=True)
try:
    print(json.dumps({"commit": effnets.push_to_hub(model, sys.argv[2])}))
except effnets.EffnetsError as error:
    print(json.dumps({"error": type(error).__name__, "message": str(error)}))
"""


@pytest.fixture
def hub():
    with serve() as server:
        yield server


@pytest.fixture
def machine(hub, tmp_path):
    return Machine(tmp_path / "machine", hub.url)


@pytest.fixture
def model():
    """One that differs from its zoo's in everything that a repository keeps."""
    spec = effnets.load_spec("tf_mobilenetv2_035")
    spec = replace(
        spec,
        bn_eps=2e-3,
        preprocess=replace(spec.preprocess, input_size=96, crop_pct=0.9, test_input_size=128, interpolation="bilinear"),
    )
    model = shake(effnets.create_model(spec, num_classes=3), size=64)
    model.class_names = ("Käuzchen", "barn owl", "snowy: owl")
    return model


def publish(hub, folder, repo=REPO):
    for file in folder.iterdir():
        hub.files[f"{repo}/{file.name}"] = file.read_bytes()


def load(machine, tmp_path, name=NAME, environment=None, **arguments):
    save_file({"images": images(2, 3, 64, 64)}, tmp_path / "images")
    process = machine.start(LOADING, name, str(tmp_path), json.dumps(arguments), **(environment or {}))
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    return json.loads(output.splitlines()[-1])


def assert_is(answer, tmp_path, model):
    """The process built this very network."""
    assert "error" not in answer, answer
    assert answer["spec"] == repr(model.spec)
    assert answer["classes"] == list(model.class_names)
    loaded = load_file(tmp_path / "loaded")
    with torch.no_grad():
        assert torch.equal(loaded.pop("logits"), model(images(2, 3, 64, 64)))
    assert loaded.keys() == model.state_dict().keys()
    assert all(torch.equal(tensor, loaded[name]) for name, tensor in model.state_dict().items())


def test_what_was_saved_comes_back_from_the_hub(hub, machine, model, tmp_path):
    save_pretrained(model, tmp_path / "folder")
    publish(hub, tmp_path / "folder")
    first = load(machine, tmp_path, pretrained=True)
    assert_is(first, tmp_path, model)
    assert first["source"] == f"{NAME}@{COMMIT}/model.safetensors"
    asked = len(hub.requests)
    for environment in ({}, {"HF_HUB_OFFLINE": "1"}):
        assert load(machine, tmp_path, environment=environment, pretrained=True) == first
    assert len(hub.requests) == asked
    # By its commit it is another name of the same files.
    assert_is(load(machine, tmp_path, f"{NAME}@{COMMIT}", pretrained=True), tmp_path, model)


def test_all_files_are_of_one_commit(hub, machine, model, tmp_path):
    """The branch moves on when the config has been fetched."""
    save_pretrained(model, tmp_path / "folder")
    publish(hub, tmp_path / "folder")
    newer = shake(effnets.create_model("mobilenetv1_025", num_classes=3), size=64)
    save_pretrained(newer, tmp_path / "newer")

    def move():
        hub.history[COMMIT] = dict(hub.files)
        hub.commit = "f" * 40
        publish(hub, tmp_path / "newer")

    hub.after["config.json"] = move
    assert_is(load(machine, tmp_path, pretrained=True), tmp_path, model)


def test_a_commit_that_is_gone(hub, machine, model, tmp_path):
    save_pretrained(model, tmp_path / "folder")
    publish(hub, tmp_path / "folder")
    load(machine, tmp_path)
    hub.commit = "f" * 40
    message = load(machine, tmp_path, pretrained=True)["message"]
    assert f"no such revision (404); 'effnets prefetch {NAME}' asks for the newest commit" in message


def test_a_half_filled_folder_of_files_is_passed_over(hub, machine, model, tmp_path):
    save_pretrained(model, tmp_path / "files" / REPO)
    publish(hub, tmp_path / "files" / REPO)
    (tmp_path / "files" / REPO / "model.safetensors").unlink()
    environment = {"EFFNETS_WEIGHTS_DIR": str(tmp_path / "files")}
    assert_is(load(machine, tmp_path, environment=environment, pretrained=True), tmp_path, model)


def test_cached_weights_of_the_second_choice_do_without_network(hub, machine, tmp_path):
    """As timm leaves a cache that it filled itself, without asking for safetensors."""
    theirs = shake(timm.create_model("rexnet_100", num_classes=4), size=64)
    timm.models.save_for_hf(theirs, tmp_path / "folder", safe_serialization=False)
    publish(hub, tmp_path / "folder")
    fetch = "import sys, huggingface_hub as hub; [hub.hf_hub_download(sys.argv[1], file) for file in sys.argv[2:]]"
    process = machine.start(fetch, REPO, "config.json", "pytorch_model.bin")
    assert process.wait(60) == 0, process.communicate()
    assert "error" not in load(machine, tmp_path, environment={"HF_HUB_OFFLINE": "1"}, pretrained=True)


def test_without_pretrained_the_weights_are_not_fetched(hub, machine, model, tmp_path):
    save_pretrained(model, tmp_path / "folder")
    publish(hub, tmp_path / "folder")
    answer = load(machine, tmp_path)
    assert (answer["spec"], answer["source"]) == (repr(model.spec), None)
    assert not any("safetensors" in request for request in hub.requests)


def test_weights_of_a_repository_bring_what_they_were_trained_with(hub, machine, model, tmp_path):
    save_pretrained(model, tmp_path / "folder", dialect="timm")
    publish(hub, tmp_path / "folder")
    answer = load(machine, tmp_path, "mobilenetv2_035", weights=NAME)
    assert "error" not in answer, answer
    assert "padding='same'" in answer["spec"]
    assert "its header sets padding to same (the model has symmetric)" in answer["notes"]
    assert answer["classes"] == list(model.class_names)
    with torch.no_grad():
        assert torch.equal(load_file(tmp_path / "loaded")["logits"], model(images(2, 3, 64, 64)))


@pytest.mark.parametrize("safe", [True, False], ids=["safetensors", "bin"])
def test_repositories_of_timm_s_are_read(hub, machine, tmp_path, safe):
    theirs = shake(timm.create_model("rexnet_100", num_classes=4), size=64)
    labels = {"label_names": ["a", "b", "c", "d"]}
    timm.models.save_for_hf(theirs, tmp_path / "folder", model_config=labels, safe_serialization=safe)
    publish(hub, tmp_path / "folder")
    for _ in range(2):
        answer = load(machine, tmp_path, pretrained=True)
        assert answer["classes"] == ["a", "b", "c", "d"]
        with torch.no_grad():
            assert torch.equal(load_file(tmp_path / "loaded")["logits"], theirs(images(2, 3, 64, 64)))
        asked = hub.requests.copy()
        hub.files.clear()  # the second time all is cached, also that there is no other file
        hub.requests.clear()
    assert asked == []


def test_a_registered_repository_is_its_tag(hub, machine, tmp_path):
    theirs = shake(timm.create_model("mobilenetv2_050"), size=64)
    save_file(theirs.state_dict(), tmp_path / "weights")
    hub.files["timm/mobilenetv2_050.lamb_in1k/model.safetensors"] = (tmp_path / "weights").read_bytes()
    by_name = load(machine, tmp_path, "hf-hub:timm/mobilenetv2_050.lamb_in1k", pretrained=True)
    assert by_name["notes"] == ["published weights mobilenetv2_050.lamb_in1k"]
    assert load(machine, tmp_path, "mobilenetv2_050", weights="hf-hub:timm/mobilenetv2_050.lamb_in1k") == by_name


def test_a_folder_of_files_comes_before_the_hub(machine, model, tmp_path):
    save_pretrained(model, tmp_path / "files" / REPO)
    environment = {"EFFNETS_WEIGHTS_DIR": str(tmp_path / "files"), "HF_HUB_OFFLINE": "1"}
    assert_is(load(machine, tmp_path, environment=environment, pretrained=True), tmp_path, model)
    refused = load(machine, tmp_path, f"{NAME}@v2", environment, pretrained=True)
    assert "is not cached, and HF_HUB_OFFLINE is set" in refused["message"]


@pytest.mark.parametrize("file", ["config.json", "model.yaml", "model.safetensors"])
def test_a_flipped_byte_in_any_file_is_refused_and_heals(hub, machine, model, tmp_path, file):
    save_pretrained(model, tmp_path / "folder")
    publish(hub, tmp_path / "folder")
    hub.faults = [Fault("flip", path=file)]
    refused = load(machine, tmp_path, pretrained=True)
    assert refused["error"] == "WeightsError"
    assert f"{file}: refused: its sha256 is" in refused["message"]
    hub.faults = []
    assert_is(load(machine, tmp_path, pretrained=True), tmp_path, model)


def test_repositories_that_hold_no_network(hub, machine, tmp_path):
    assert "no such repository (404)" in load(machine, tmp_path, pretrained=True)["message"]
    hub.files[f"{REPO}/README.md"] = b"owls"
    message = load(machine, tmp_path, pretrained=True)["message"]
    assert "config.json: no such file there (404); check the name; config.json is what save_pretrained" in message
    hub.files[f"{REPO}/config.json"] = b'{"architecture": "mixnet_s"}'
    message = load(machine, tmp_path, pretrained=True)["message"]
    assert "holds no weights that are read here, which are model.safetensors or pytorch_model.bin, in one" in message


@pytest.mark.parametrize(
    "name", ["hf-hub:owls", "hf-hub:user/owls/x", "hf-hub:user/owls@", "hf-hub:../owls", "hf-hub:"]
)
def test_names_of_no_repository(name):
    with pytest.raises(ArgumentError, match=r"names no repository; write hf-hub:user/repository, or …@revision"):
        effnets.create_model(name)


def test_a_revision_is_split_off():
    assert split_repository("hf-hub:user/owls") == ("hf-hub:user/owls", None)
    assert split_repository("hf-hub:user/owls@v1.0/x") == ("hf-hub:user/owls", "v1.0/x")


def test_pushing_is_saving_and_uploading(hub, machine, model, tmp_path):
    save_pretrained(model, tmp_path / "folder")
    process = machine.start(PUSHING, str(tmp_path / "folder"), REPO, HF_TOKEN=TOKEN)
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert json.loads(output.splitlines()[-1]) == {"commit": COMMIT}
    assert hub.files.keys() == {f"{REPO}/{file.name}" for file in (tmp_path / "folder").iterdir()}
    assert f'create_model("{NAME}", pretrained=True)' in hub.files[f"{REPO}/README.md"].decode()
    assert_is(load(machine, tmp_path, pretrained=True), tmp_path, model)


@pytest.mark.parametrize(
    ("repo", "environment", "error", "message"),
    [
        (REPO, {}, "UploadError", "not uploaded: .*401.*HF_TOKEN"),
        (REPO, {"HF_TOKEN": TOKEN, "HF_HUB_OFFLINE": "1"}, "UploadError", "not uploaded: .*offline"),
        (f"{REPO}@v2", {}, "ArgumentError", "uploads have no revision, write user/owls"),
        ("owls", {}, "ArgumentError", "names no repository"),
    ],
    ids=["token", "offline", "revision", "name"],
)
def test_uploads_that_are_refused(hub, machine, model, tmp_path, repo, environment, error, message):
    save_pretrained(model, tmp_path / "folder")
    process = machine.start(PUSHING, str(tmp_path / "folder"), repo, **environment)
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    answer = json.loads(output.splitlines()[-1])
    assert answer["error"] == error
    assert "\n" not in answer["message"]
    assert re.search(message, answer["message"]), answer
    assert not hub.files


def test_prefetch_brings_the_newest_commit(hub, machine, model, tmp_path):
    save_pretrained(model, tmp_path / "folder")
    publish(hub, tmp_path / "folder")
    old = load(machine, tmp_path, pretrained=True)
    torch.nn.init.ones_(model.classifier.bias)
    save_pretrained(model, tmp_path / "folder")
    publish(hub, tmp_path / "folder")
    hub.commit = "f" * 40
    assert load(machine, tmp_path, pretrained=True) == old
    process = machine.start("from effnets.cli import main; main()", "prefetch", NAME, "--json")
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert json.loads(output)[0]["source"] == f"{NAME}@{hub.commit}/model.safetensors"
    new = load(machine, tmp_path, environment={"HF_HUB_OFFLINE": "1"}, pretrained=True)
    assert_is(new, tmp_path, model)
    assert new["sha256"] != old["sha256"]
    assert (
        load(machine, tmp_path, f"{NAME}@{COMMIT}", {"HF_HUB_OFFLINE": "1"}, pretrained=True)["sha256"] == old["sha256"]
    )
