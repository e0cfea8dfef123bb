"""A network in int8 as a LiteRT file, by Google's AI Edge Quantizer from the float file."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any

import numpy as np

from effnets.deploy.export.litert import add_metadata, convert
from effnets.deploy.quantize.calibration import CalibrationImages
from effnets.engines.base import first_line
from effnets.engines.metadata import ModelMetadata
from effnets.errors import ExportError
from effnets.nn.classifier import Classifier
from effnets.utils.quiet import quiet_exporters, quiet_native


class LiteRTInt8:
    """Builds files in int8 from a network that `NetworkSearch` made ready, calibrated with images.

    Input and logits are float32, and the classifier rounds its inputs image by image: 256 levels for all logits of all
    images would lose their order.

    Raises ExportError if the network cannot be converted.
    """

    mixed = True

    def __init__(self, network: Classifier, images: CalibrationImages, metadata: ModelMetadata) -> None:
        self._float = bytearray(convert(network, metadata))
        self._ranges = self._calibrate(images)

    def build(self, metadata: ModelMetadata, float_layers: Collection[str] = ()) -> bytes:
        """Return the file; `float_layers` stay in float32. Raises ExportError if it cannot be quantized."""
        try:
            with quiet_exporters(), quiet_native():
                from ai_edge_quantizer.quantizer import Quantizer

                recipe = _make_recipe(float_layers)
                data = bytes(Quantizer(self._float, recipe).quantize(self._ranges).quantized_model)
        except Exception as error:
            raise ExportError(f"{metadata.model}: litert cannot quantize it: {first_line(error)}") from error
        return add_metadata(data, metadata, softmax=False)

    def _calibrate(self, images: CalibrationImages) -> Any:
        with quiet_exporters(), quiet_native():
            from ai_edge_litert.interpreter import Interpreter
            from ai_edge_quantizer.calibrator import Calibrator
            from ai_edge_quantizer.recipe_manager import RecipeManager
            from ai_edge_quantizer.utils.qsv_utils import min_max_update

            signatures = Interpreter(model_content=bytes(self._float)).get_signature_list()
            ((key, names),) = signatures.items()
            data = [
                {names["inputs"][0]: np.ascontiguousarray(image[None].transpose(0, 2, 3, 1))}
                for batch in images.batches()
                for image in batch
            ]
            manager = RecipeManager()
            manager.load_quantization_recipe(_make_recipe(()))
            calibrator = Calibrator(self._float, num_threads=1, qsv_update_func=min_max_update)
            calibrator.calibrate({key: data}, manager)
            return calibrator.get_model_qsvs()


def _make_recipe(float_layers: Collection[str]) -> Any:
    from ai_edge_quantizer.qtyping import TFLOperationName
    from ai_edge_quantizer.recipe_manager import RecipeManager

    manager = RecipeManager()
    manager.add_static_config(
        regex=".*", operation_name=TFLOperationName.ALL_SUPPORTED, activation_num_bits=8, weight_num_bits=8
    )
    for border in (TFLOperationName.INPUT, TFLOperationName.OUTPUT):
        manager.add_quantization_config(regex=".*", operation_name=border, algorithm_key="no_quantize")
    classifier = TFLOperationName.FULLY_CONNECTED  # its tensor is called after the file's output
    if "classifier" in float_layers:
        manager.add_quantization_config(regex=".*", operation_name=classifier, algorithm_key="no_quantize")
    else:
        manager.add_dynamic_config(regex=".*", operation_name=classifier, num_bits=8)
    for layer in float_layers:
        manager.add_quantization_config(
            regex=_scope_of(layer), operation_name=TFLOperationName.ALL_SUPPORTED, algorithm_key="no_quantize"
        )
    return manager.get_quantization_recipe()


def _scope_of(layer: str) -> str:
    """Return a pattern for the name of the tensor that the layer ``stages.1.0.expand`` writes.

    The converter names tensors by their modules, ``…/…Classifier_network/…Sequential_stages/…Sequential_1/
    …SequentialBlock_0/…Conv2d_expand;…``, the writer's first or, if an activation is fused, the activation's.
    """
    *parents, name = layer.split(".")
    path = "".join(rf"/[\w.]+_{re.escape(parent)}" for parent in parents)
    return rf"^[^;]*_network{path}/[\w.]+_{re.escape(name)}(_act)?;"
