"""Save weights and whole models: one file, a folder, or a repository of the Hub."""

from __future__ import annotations

import json
import os
import tempfile
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml
from torch import nn

from effnets.errors import ArgumentError, UploadError, WeightsError
from effnets.nn.classifier import Classifier, network_of, require_values, unwrap
from effnets.spec.entries import encode_entry, is_model_name
from effnets.spec.models import load_spec
from effnets.spec.plan import make_plan
from effnets.spec.specs import HUB_SCHEME, ModelSpec, split_repository
from effnets.utils.atomic_file import write_whole
from effnets.weights.dialects import get_dialect
from effnets.weights.files import write_checkpoint
from effnets.weights.folder import CONFIG, TABLE, TABLE_KEY, WEIGHTS
from effnets.weights.remap import make_header


def save_weights(model: nn.Module, path: str | os.PathLike[str], *, dialect: str = "effnets") -> None:
    """Write a network's weights in the names and layout of `dialect`, for its framework to load strictly.

    Args:
        model: the network, also inside of torch.compile or DataParallel.
        path: ``.safetensors``, with a header of what belongs to the weights; for other dialects than this library's
            also ``.pth``, ``.pt`` or ``.bin``, a plain state dict; for ``keras`` ``.h5``, for `Model.load_weights`.
        dialect: ``effnets``, ``timm``, ``torchvision``, ``transformers``, ``keras`` or ``clovaai``.

    Raises:
        ArgumentError: unknown dialect, or a model without values.
        WeightsError: the framework has no such network, or runs it with another padding, epsilon or activation; it
            reads no such files; or the file cannot be written.
    """
    network = network_of(model)
    require_values(network)
    chosen, path = get_dialect(dialect), Path(path)
    if path.suffix.lower() not in chosen.suffixes:
        raise WeightsError(
            f"{path}: weights of dialect {dialect} are written as {' or '.join(chosen.suffixes)}; "
            "give the file that suffix"
        )
    if differences := chosen.differences(network.spec):
        raise WeightsError(
            f"{network.spec.name} would give other logits there: {'; '.join(differences)}; save it in dialect effnets"
        )
    tensors = chosen.from_native({name: tensor.cpu() for name, tensor in network.state_dict().items()}, network.plan)
    header = {"model": network.spec.name, "dialect": dialect, "num_classes": str(network.plan.num_classes)}
    if isinstance(network, Classifier):
        header["background"] = "true" if network.background else "false"
        if network.class_names:
            header["class_names"] = json.dumps(network.class_names, ensure_ascii=False)
        header |= {key: json.dumps(value) for key, value in _meaning_of_outputs(network).items()}
    write_checkpoint(path, tensors, header | make_header(network.spec))


def _meaning_of_outputs(network: Classifier) -> dict[str, Any]:
    """What is not usual of the outputs: they are labels or an embedding, not classes."""
    if network.classifier_activation == "softmax":
        return {}
    thresholds = {} if network.thresholds is None else {"thresholds": list(network.thresholds)}
    return {"classifier_activation": network.classifier_activation, **thresholds}


_CARD = "README.md"
SIGNATURE = "saved by effnets"


def save_pretrained(model: nn.Module, folder: str | os.PathLike[str], *, dialect: str = "effnets") -> None:
    """Write a classifier into a folder, from which `create_model(folder, pretrained=True)` makes it again.

    Args:
        model: the classifier, also inside of torch.compile or DataParallel.
        folder: made if it is not there; files of the same names in it are replaced.
        dialect: names of the weights; with ``timm``, timm loads the folder too (``local-dir:``) where it has the model.

    Raises:
        ArgumentError: `model` is no classifier of this library. WeightsError: the folder cannot be written.
    """
    _save(model, Path(folder), dialect, "<this folder>")


def push_to_hub(
    model: nn.Module,
    repo_id: str,
    *,
    dialect: str = "effnets",
    private: bool | None = None,
    commit_message: str = "Add the model",
    token: str | None = None,
) -> str:
    """Upload what `save_pretrained` writes to the Hub, from where `create_model("hf-hub:" + repo_id)` makes it again.

    Args:
        model: as of `save_pretrained`.
        repo_id: ``user/repository``; created if it does not exist.
        dialect: as of `save_pretrained`.
        private: whether a new repository is private; None: as the account is set.
        commit_message: of the upload.
        token: with the right to write; None: ``HF_TOKEN``, or that of ``hf auth login``.

    Returns:
        The commit, by which these very weights are had: ``hf-hub:user/repository@commit``.

    Raises:
        ArgumentError: if `repo_id` is invalid, or `model` is not a classifier of this library.
        UploadError: the Hub cannot be reached, or refuses; nothing of a refused upload shows there.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HTTPError, OfflineModeIsEnabled  # type: ignore[attr-defined]

    name, revision = split_repository(f"{HUB_SCHEME}{repo_id}")
    if revision is not None:
        raise ArgumentError(f"repo_id is {repo_id!r}; uploads have no revision, write {repo_id.partition('@')[0]}")
    with tempfile.TemporaryDirectory() as folder:
        _save(model, Path(folder), dialect, name)
        api = HfApi(token=token)
        try:
            api.create_repo(repo_id, private=private, exist_ok=True)
            commit = api.upload_folder(repo_id=repo_id, folder_path=folder, commit_message=commit_message)
        except (HTTPError, OfflineModeIsEnabled, OSError) as error:
            reason = " ".join(str(error).split())
            refused = isinstance(error, HfHubHTTPError) and error.response.status_code in (401, 403)
            advice = "; set HF_TOKEN to a token that may write, or run 'hf auth login'" if refused else ""
            raise UploadError(f"{name}: not uploaded: {reason}{advice}") from None
    return str(commit.oid)


def _save(model: nn.Module, folder: Path, dialect: str, name: str) -> None:
    network = unwrap(model)
    if not isinstance(network, Classifier):
        raise ArgumentError(f"model is a {type(network).__name__}; give a classifier that create_model built")
    names, outputs = network.class_names, network.num_classes
    for argument, values, noun in (("class_names", names, "names"), ("thresholds", network.thresholds, "numbers")):
        if values is not None and len(values) != outputs:
            raise ArgumentError(f"model.{argument} has {len(values)} {noun} for {outputs} outputs; give one for each")
    config = json.dumps(_timm_config(network), indent=1, ensure_ascii=False) + "\n"
    save_folder(
        folder,
        network.spec,
        config,
        card=_model_card(network, name),
        write_weights=lambda path: save_weights(network, path, dialect=dialect),
    )


def save_folder(
    folder: Path, spec: ModelSpec, config: str, *, card: str, write_weights: Callable[[Path], None]
) -> None:
    """Write a network's folder: its table, ``config.json``, weights and card, all of them or none.

    Args:
        folder: made if it is not there; files of the same names in it are replaced, but a card written by hand.
        spec: what the table describes.
        config: the text of ``config.json``.
        card: the text of ``README.md``, which says that effnets saved it.
        write_weights: writes the safetensors file of that name.

    Raises:
        ArgumentError: if the spec has a name that could be written, and not be read again.
        WeightsError: if the folder cannot be written.
    """
    if not is_model_name(spec.name):
        raise ArgumentError(
            f"model.spec.name is {spec.name!r}; a name that is to be saved has letters, digits, '_' and '-', "
            "and no '_' in front"
        )
    texts = {TABLE: yaml.safe_dump({spec.name: encode_entry(spec)}, sort_keys=False, width=120), CONFIG: config}
    before = folder / _CARD
    if not before.exists() or SIGNATURE in before.read_text(encoding="utf-8", errors="replace"):
        texts[_CARD] = card  # not over what somebody wrote by hand
    is_new = not folder.exists()
    # All under other names first, then quickly to their own: a full disk or a killed process leaves what was there.
    mark = uuid.uuid4().hex
    written = {file: folder / f".{mark}.{file}" for file in (WEIGHTS[0], *texts)}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_weights(written[WEIGHTS[0]])
        for file, text in texts.items():
            write_whole(written[file], text.encode())
        if load_spec(written[TABLE]) != spec:
            raise WeightsError(f"{folder}: the table of {spec.name} does not give its network again; not saved")
        # While there is no config there is no network: never the config of one with the weights of another.
        (folder / CONFIG).unlink(missing_ok=True)
        (folder / TABLE).unlink(missing_ok=True)
        for file in (WEIGHTS[0], *(file for file in texts if file != CONFIG), CONFIG):
            written[file].replace(folder / file)
    except OSError as error:
        raise WeightsError(f"{folder}: cannot be written ({error.strerror or error})") from None
    finally:
        with suppress(OSError):
            for path in written.values():
                path.unlink(missing_ok=True)
            if is_new:
                folder.rmdir()  # fails where something is in it, as it should


def _build_arguments(model: Classifier) -> dict[str, Any]:
    """What `create_model` was given beside the spec and the classes, where it was not the default; in timm's words."""
    strides = (
        stride
        for stride in (32, 16, 8)
        if make_plan(model.spec, in_chans=model.in_chans, num_classes=model.num_classes, output_stride=stride)
        == model.plan
    )
    given = {
        "in_chans": model.in_chans,
        "global_pool": "" if model.pool.kind == "none" else model.pool.kind,
        "drop_rate": model.dropout.p,
        "output_stride": next(strides, 32),
    }
    usual = {"in_chans": 3, "global_pool": "avg", "drop_rate": model.spec.drop_rate, "output_stride": 32}
    return {name: value for name, value in given.items() if value != usual[name]}


def _timm_config(model: Classifier) -> dict[str, Any]:
    preprocess = model.spec.preprocess
    size, test_size = preprocess.input_size, preprocess.test_input_size
    pretrained: dict[str, Any] = {
        "num_classes": model.num_classes,
        "input_size": [model.in_chans, size, size],
        "crop_pct": preprocess.crop_pct,
        "interpolation": preprocess.interpolation,
        "mean": list(preprocess.mean),
        "std": list(preprocess.std),
    }
    if test_size is not None:
        pretrained["test_input_size"] = [model.in_chans, test_size, test_size]
    if preprocess.test_crop_pct is not None:
        pretrained["test_crop_pct"] = preprocess.test_crop_pct
    config: dict[str, Any] = {"architecture": model.spec.name, "num_classes": model.num_classes}
    config[TABLE_KEY] = TABLE
    if arguments := _build_arguments(model):
        config["model_args"] = arguments
    config |= {"num_features": model.num_features, "pretrained_cfg": pretrained}
    if model.class_names:
        config["label_names"] = list(model.class_names)
    return config | _meaning_of_outputs(model)


def _model_card(model: Classifier, name: str) -> str:
    spec, preprocess = model.spec, model.spec.preprocess
    size, names = preprocess.input_size, model.class_names or ()
    kind, task, call, noun = _CARDS[model.classifier_activation]
    classes = f"\n{noun}: {', '.join(names[:20])}{', …' if len(names) > 20 else ''}\n" if names else ""
    facts = {"library_name": "effnets", "pipeline_tag": task, "tags": [task, spec.family]}
    return f"""---
{yaml.safe_dump(facts, sort_keys=False)}---

# {spec.name}

{kind.format(model.num_outputs)}, {SIGNATURE}.

| input | crop share | interpolation | mean | std |
|---|---|---|---|---|
| {size}×{size} | {preprocess.crop_pct:g} | {preprocess.interpolation} | {preprocess.mean} | {preprocess.std} |
{classes}
```python
import effnets

model = effnets.create_model("{name}", pretrained=True)
effnets.{call}(model, "photo.jpg")
```
"""


_CARDS = {  # by the activation: what it is, the Hub's name for that, how it is called, and what class_names are
    "softmax": ("An image classifier of {} classes", "image-classification", "predict", "Classes"),
    "sigmoid": ("A classifier that gives images any of {} labels", "image-classification", "predict", "Labels"),
    "l2": ("Embeddings of images, {} numbers each", "image-feature-extraction", "embed", "Classes"),
}
