"""A network in int8 as an ExecuTorch program, by torchao's PT2E and the quantizer of XNNPACK."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import Any

import torch
from torch import fx

from effnets.deploy.export.executorch import lower
from effnets.deploy.export.image_input import ImageInput
from effnets.deploy.quantize.calibration import CalibrationImages
from effnets.engines.base import first_line
from effnets.engines.metadata import ModelMetadata
from effnets.errors import ExportError
from effnets.nn.classifier import Classifier
from effnets.utils.quiet import quiet_exporters, quiet_native

_CLIPS = (torch.ops.aten.hardtanh.default, torch.ops.aten.hardtanh_.default)
_LEAST_SCALE = 2.0**-12


class ExecuTorchInt8:
    """Builds a program in int8 from a network that `NetworkSearch` made ready, calibrated with images.

    All layers are in int8: ExecuTorch 1.5 cannot convert a convolution in float between others in int8.
    """

    mixed = False

    def __init__(self, network: Classifier, images: CalibrationImages, _: ModelMetadata) -> None:
        self._network, self._images = network, images

    def build(self, metadata: ModelMetadata, _: Collection[str] = ()) -> bytes:
        """Return the program; raises ExportError if it cannot be converted."""
        from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

        module = ImageInput(self._network, metadata, channels_last=False, softmax=False).eval()
        example = (module.example(metadata),)
        try:
            with quiet_exporters(), quiet_native():
                graph = torch.export.export(module, example, strict=False).module()
                prepared = prepare_pt2e(graph, _make_quantizer())
                with torch.inference_mode():
                    for images in self._images.batches():
                        for image in images:
                            prepared(torch.from_numpy(image[None]))
                return lower(convert_pt2e(prepared), *example, metadata)
        except ExportError:
            raise
        except Exception as error:  # of torch or the converter
            raise ExportError(f"{metadata.model}: executorch cannot quantize it: {first_line(error)}") from error


def _make_quantizer() -> Any:
    """Return XNNPACK's quantizer that also knows convolutions followed by ReLU6.

    XNNPACK computes these as one. Its own quantizer would round the values before the clip, most of whose range is
    clipped away: of MobileNetV1 1.0 the error of the logits is then 0.25 of their deviation instead of 0.05.
    """
    from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
        XNNPACKQuantizer,
        get_symmetric_quantization_config,
    )
    from torchao.quantization.pt2e import MinMaxObserver
    from torchao.quantization.pt2e.quantizer import QuantizationAnnotation

    config = get_symmetric_quantization_config(is_per_channel=True)
    observer = MinMaxObserver.with_args(eps=_LEAST_SCALE)
    act = replace(config.input_activation, observer_or_fake_quant_ctr=observer)
    config = replace(config, input_activation=act, output_activation=act)

    class Int8Quantizer(XNNPACKQuantizer):  # type: ignore[misc]
        def annotate(self, model: fx.GraphModule) -> fx.GraphModule:
            for node in model.graph.nodes:
                conv = node.args[0] if node.target in _CLIPS else None
                if not isinstance(conv, fx.Node) or conv.target is not torch.ops.aten.conv2d.default:
                    continue
                if len(conv.users) == 1:
                    inputs = {conv.args[0]: act, conv.args[1]: config.weight}
                    conv.meta["quantization_annotation"] = QuantizationAnnotation(inputs, _annotated=True)
                    node.meta["quantization_annotation"] = QuantizationAnnotation(output_qspec=act, _annotated=True)
            return super().annotate(model)

    return Int8Quantizer().set_global(config)
