"""A model that travels to the processes of other machines."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from effnets.inference.predictor import Decode, Predictor, create_predictor

if TYPE_CHECKING:
    from effnets.nn.classifier import Classifier


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedModel:
    """A network, or the content of an exported file, and how it is executed.

    Attributes:
        network: None if it is exported.
        files: of an exported model by name, the model's own first, with those beside it that share its name.
        engine: that executes it, as of `effnets.load_engine`; None executes a network as it is.
        image_size: side of the input in pixels; None takes the model's own.
        decode: "exact" or "fast", as of `effnets.predict`.
    """

    network: Classifier | None = None
    files: Mapping[str, bytes]
    engine: str | None = None
    image_size: int | None = None
    decode: Decode = "exact"

    def open(self, threads: int = 1) -> Predictor:
        """Return the predictor, of so many threads, in the process that uses it."""
        if self.network is not None and self.engine is None:
            import torch

            torch.set_num_threads(threads)
            return create_predictor(self.network, self.image_size, "image_size", self.decode)
        from effnets.deploy.engine import load_engine

        engine = self.engine or "auto"
        with TemporaryDirectory() as folder, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the process that packed it has warned
            for name, content in self.files.items():
                Path(folder, name).write_bytes(content)
            model = self.network or Path(folder, next(iter(self.files)))
            return create_predictor(
                load_engine(model, engine, threads=threads), self.image_size, "image_size", self.decode
            )


def pack_model(
    model: Classifier | Path,
    *,
    engine: str | None = None,
    image_size: int | None = None,
    decode: Decode = "exact",
) -> PackedModel:
    """Pack a network, or an exported file with what lies beside it, such as OpenVINO's weights."""
    if not isinstance(model, Path):
        return PackedModel(network=model, files={}, engine=engine, image_size=image_size, decode=decode)
    weights = {model, model.with_suffix(".bin"), model.with_name(f"{model.name}.data")}
    files = {path.name: path.read_bytes() for path in (model, *sorted(weights - {model})) if path.is_file()}
    return PackedModel(files=files, engine=engine, image_size=image_size, decode=decode)
