"""The zoo for torch.hub: every model is an entry point, ``torch.hub.load("org/effnets", "mixnet_m", pretrained=True)``.

torch.hub takes every public callable of this module for a model, so that all else has an underscore in front.
"""

from __future__ import annotations

from collections.abc import Callable as _Callable
from typing import Any as _Any

import effnets as _effnets

# What must be importable, by import names; click and rich are the command line's.
dependencies = ["torch", "safetensors", "huggingface_hub", "numpy", "PIL", "yaml", "filelock"]

_DOC = """\
{name}: {params:.2f} M parameters, {madds:,.2f} M multiply-adds at {size}×{size}.

Args:
    pretrained: load published weights, fetched and cached. {weights}
    options: those of `effnets.create_model`, by name: ``weights`` (a tag or a file), ``num_classes``, ``in_chans``,
        ``mean``, ``std``, ``ema``, ``drop_rate``, ``drop_path_rate``, ``global_pool``, ``features_only``,
        ``out_indices``, ``output_stride``, ``device``, ``dtype``.

Returns:
    An `effnets.Classifier` in training mode, or an `effnets.FeaturePyramid` with ``features_only=True``.

Raises:
    effnets.EffnetsError: of the kinds that `effnets.create_model` lists.
"""


def _entry_point(name: str) -> _Callable[..., _Any]:
    def create(pretrained: bool = False, **options: _Any) -> _Any:
        return _effnets.create_model(name, pretrained, **options)

    cost, tags = _effnets.count(name), _effnets.list_weights(name)
    create.__name__ = create.__qualname__ = name
    create.__doc__ = _DOC.format(
        name=name,
        params=cost.params / 1e6,
        madds=cost.madds / 1e6,
        size=_effnets.load_spec(name).input_size,
        weights=f"Tags, the first by default: {', '.join(tags)}." if tags else "None are known for this model.",
    )
    return create


globals().update({_name: _entry_point(_name) for _name in _effnets.list_models()})
