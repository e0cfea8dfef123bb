"""A classifier with all that belongs to it, as a folder or as a repository of the Hub."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

import yaml
from torch import nn

from effnets.entry import encode_entry
from effnets.errors import ArgumentError, UploadError, WeightsError
from effnets.nn.classifier import Classifier
from effnets.nn.unwrap import unwrap
from effnets.remote import HUB_SCHEME, split_repository
from effnets.weights.folder import CONFIG, TABLE, TABLE_KEY, WEIGHTS
from effnets.weights.save import save_weights

__all__ = ["push_to_hub", "save_pretrained"]

_CARD = "README.md"


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
        model, dialect: as of `save_pretrained`.
        repo_id: ``user/repository``; made if it is not there.
        private: whether a new repository is private; None: as the account is set.
        commit_message: of the upload.
        token: with the right to write; None: ``HF_TOKEN``, or that of ``hf auth login``.

    Returns:
        The commit, by which these very weights are had: ``hf-hub:user/repository@commit``.

    Raises:
        ArgumentError: `repo_id` is none, or `model` no classifier of this library.
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
    texts = {
        TABLE: yaml.safe_dump({network.spec.name: encode_entry(network.spec)}, sort_keys=False, width=120),
        CONFIG: json.dumps(_timm_config(network), indent=1, ensure_ascii=False) + "\n",
        _CARD: _model_card(network, name),
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        save_weights(network, folder / WEIGHTS[0], dialect=dialect)
        for file, text in texts.items():
            (folder / file).write_text(text, encoding="utf-8")
    except OSError as error:
        raise WeightsError(f"{folder}: cannot be written ({error.strerror or error})") from None


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
    config |= {"num_features": model.num_features, "pretrained_cfg": pretrained}
    if model.class_names:
        config["label_names"] = list(model.class_names)
    return config


def _model_card(model: Classifier, name: str) -> str:
    spec, preprocess = model.spec, model.spec.preprocess
    size, names = preprocess.input_size, model.class_names or ()
    classes = f"\nClasses: {', '.join(names[:20])}{', …' if len(names) > 20 else ''}\n" if names else ""
    return f"""---
library_name: effnets
pipeline_tag: image-classification
tags:
- image-classification
- {spec.family}
---

# {spec.name}

An image classifier of {model.num_classes} classes, saved by effnets.

| input | crop share | interpolation | mean | std |
|---|---|---|---|---|
| {size}×{size} | {preprocess.crop_pct:g} | {preprocess.interpolation} | {preprocess.mean} | {preprocess.std} |
{classes}
```python
import effnets

model = effnets.create_model("{name}", pretrained=True)
effnets.predict(model, "photo.jpg")
```
"""
