"""The errors users see. Each names the file or argument at fault, what is wrong with it, and how to mend it."""

__all__ = [
    "ArgumentError",
    "ConfigError",
    "DataError",
    "DownloadError",
    "EffnetsError",
    "EngineError",
    "ExportError",
    "ImageError",
    "MissingFileError",
    "QuantizationError",
    "ReportError",
    "TrainingError",
    "TrainingInterruptedError",
    "UnknownModelError",
    "UploadError",
    "VerificationError",
    "WeightsError",
]


class EffnetsError(Exception):
    """Base of every error that effnets raises on purpose."""


class ArgumentError(EffnetsError, ValueError):
    """An argument of a public function has a value it cannot take."""


class ConfigError(EffnetsError, ValueError):
    """A YAML table or a block string does not describe a network."""


class DataError(EffnetsError, ValueError):
    """A data set cannot be read, or there is nothing to be learned from it."""


class UnknownModelError(EffnetsError, ValueError):
    """No model or tag of that name exists."""


class WeightsError(EffnetsError, ValueError):
    """A weights file is unreadable, or its tensors are not this network's."""


class DownloadError(EffnetsError, OSError):
    """Published weights could not be fetched: no network, no permission, no such file any more, or no room."""


class UploadError(EffnetsError, OSError):
    """A network could not be uploaded: no network, no permission, or the Hub refuses it."""


class ImageError(EffnetsError, ValueError):
    """An image is unreadable, or cannot be brought to the size that the network takes."""


class MissingFileError(EffnetsError, FileNotFoundError):
    """A file or folder that was named does not exist."""


class EngineError(EffnetsError, RuntimeError):
    """An engine is not installed, or fails to load or to execute a model."""


class VerificationError(EffnetsError, RuntimeError):
    """An exported model does not compute what the network it was made from computes; nothing was written."""


class ExportError(EffnetsError, RuntimeError):
    """A model cannot be exported, or its file not be written."""


class ReportError(EffnetsError, OSError):
    """A report cannot be written: no permission, or no room."""


class TrainingError(EffnetsError, RuntimeError):
    """A training cannot go on, or its folder not be used; checkpoints that were written before are intact."""


class TrainingInterruptedError(TrainingError):
    """A signal asked a training to end; it is saved, and goes on with ``resume``.

    Attributes:
        signal: its number.
    """

    def __init__(self, message: str, signal: int) -> None:
        super().__init__(message)
        self.signal = signal


class QuantizationError(EffnetsError, RuntimeError):
    """A model in int8 does not answer as it does in float; nothing was written.

    Attributes:
        report: a `effnets.QuantizeReport` with the figures and the layers to blame.
    """

    def __init__(self, message: str, report: object = None) -> None:
        super().__init__(message)
        self.report = report
