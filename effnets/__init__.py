"""effnets: efficient image classifiers, exact to their publications and ready to ship.

Names are imported when first used, so that ``import effnets`` takes no time and what needs no torch loads none.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from effnets._version import __version__ as __version__

if TYPE_CHECKING:
    from effnets.deploy.engine import load_engine
    from effnets.deploy.export.onnx import ExportReport, export_onnx
    from effnets.deploy.optimize.optimize import optimize
    from effnets.deploy.optimize.rewrites import Rewrites
    from effnets.deploy.quantize.accuracy_gate import QuantizeReport
    from effnets.deploy.quantize.quantize import quantize
    from effnets.engines.base import Engine
    from effnets.errors import (
        ArgumentError,
        ConfigError,
        DataError,
        DownloadError,
        EffnetsError,
        EngineError,
        ExportError,
        ImageError,
        MissingFileError,
        QuantizationError,
        ReportError,
        TrainingError,
        TrainingInterruptedError,
        UnknownModelError,
        UploadError,
        VerificationError,
        WeightsError,
    )
    from effnets.evaluation import Evaluation, evaluate
    from effnets.factory import create_model
    from effnets.inference.labels import Prediction
    from effnets.inference.predictor import predict
    from effnets.inference.transform import create_transform
    from effnets.nn.classifier import Classifier
    from effnets.nn.features import FeaturePyramid
    from effnets.nn.freeze import freeze
    from effnets.nn.utils import LoadReport
    from effnets.spec.cost import Cost, count
    from effnets.spec.models import list_models, load_spec
    from effnets.spec.specs import BlockSpec, ModelSpec, PreprocessSpec, WeightsSpec
    from effnets.spec.weights import list_weights
    from effnets.train.recipe import Recipe
    from effnets.train.run import TrainedModel, finetune
    from effnets.weights.load import load_weights
    from effnets.weights.save import push_to_hub, save_pretrained, save_weights


_HOMES = {
    "ArgumentError": "effnets.errors",
    "BlockSpec": "effnets.spec.specs",
    "Classifier": "effnets.nn.classifier",
    "ConfigError": "effnets.errors",
    "Cost": "effnets.spec.cost",
    "DataError": "effnets.errors",
    "DownloadError": "effnets.errors",
    "EffnetsError": "effnets.errors",
    "Engine": "effnets.engines.base",
    "EngineError": "effnets.errors",
    "Evaluation": "effnets.evaluation",
    "ExportError": "effnets.errors",
    "ExportReport": "effnets.deploy.export.onnx",
    "FeaturePyramid": "effnets.nn.features",
    "ImageError": "effnets.errors",
    "LoadReport": "effnets.nn.utils",
    "MissingFileError": "effnets.errors",
    "ModelSpec": "effnets.spec.specs",
    "Prediction": "effnets.inference.labels",
    "PreprocessSpec": "effnets.spec.specs",
    "QuantizationError": "effnets.errors",
    "QuantizeReport": "effnets.deploy.quantize.accuracy_gate",
    "Recipe": "effnets.train.recipe",
    "ReportError": "effnets.errors",
    "Rewrites": "effnets.deploy.optimize.rewrites",
    "TrainedModel": "effnets.train.run",
    "TrainingError": "effnets.errors",
    "TrainingInterruptedError": "effnets.errors",
    "UnknownModelError": "effnets.errors",
    "UploadError": "effnets.errors",
    "VerificationError": "effnets.errors",
    "WeightsError": "effnets.errors",
    "WeightsSpec": "effnets.spec.specs",
    "count": "effnets.spec.cost",
    "create_model": "effnets.factory",
    "create_transform": "effnets.inference.transform",
    "evaluate": "effnets.evaluation",
    "export_onnx": "effnets.deploy.export.onnx",
    "finetune": "effnets.train.run",
    "freeze": "effnets.nn.freeze",
    "list_models": "effnets.spec.models",
    "list_weights": "effnets.spec.weights",
    "load_engine": "effnets.deploy.engine",
    "load_spec": "effnets.spec.models",
    "load_weights": "effnets.weights.load",
    "optimize": "effnets.deploy.optimize.optimize",
    "predict": "effnets.inference.predictor",
    "push_to_hub": "effnets.weights.save",
    "quantize": "effnets.deploy.quantize.quantize",
    "save_pretrained": "effnets.weights.save",
    "save_weights": "effnets.weights.save",
}

__all__ = [
    "ArgumentError",
    "BlockSpec",
    "Classifier",
    "ConfigError",
    "Cost",
    "DataError",
    "DownloadError",
    "EffnetsError",
    "Engine",
    "EngineError",
    "Evaluation",
    "ExportError",
    "ExportReport",
    "FeaturePyramid",
    "ImageError",
    "LoadReport",
    "MissingFileError",
    "ModelSpec",
    "Prediction",
    "PreprocessSpec",
    "QuantizationError",
    "QuantizeReport",
    "Recipe",
    "ReportError",
    "Rewrites",
    "TrainedModel",
    "TrainingError",
    "TrainingInterruptedError",
    "UnknownModelError",
    "UploadError",
    "VerificationError",
    "WeightsError",
    "WeightsSpec",
    "count",
    "create_model",
    "create_transform",
    "evaluate",
    "export_onnx",
    "finetune",
    "freeze",
    "list_models",
    "list_weights",
    "load_engine",
    "load_spec",
    "load_weights",
    "optimize",
    "predict",
    "push_to_hub",
    "quantize",
    "save_pretrained",
    "save_weights",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'effnets' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(["__version__", *_HOMES])
