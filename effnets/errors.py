"""Errors for users: each message names the file or argument at fault, what is wrong with it, and how to fix it."""


class EffnetsError(Exception):
    """Base of every error that effnets raises on purpose."""


class ArgumentError(EffnetsError, ValueError):
    """An argument of a public function has a value it cannot take."""


class ConfigError(EffnetsError, ValueError):
    """A YAML table or a block string does not describe a network."""


class DataError(EffnetsError, ValueError):
    """A data set is unreadable, or has nothing to learn from."""


class UnknownModelError(EffnetsError, ValueError):
    """No model or tag of that name exists."""


class WeightsError(EffnetsError, ValueError):
    """A weights file is unreadable, or its tensors are not this network's."""


class DownloadError(EffnetsError, OSError):
    """Published weights could not be fetched: no network, no permission, a missing file, or a full disk."""


class UploadError(EffnetsError, OSError):
    """A network could not be uploaded: no network, no permission, or the Hub refuses it."""


class ImageError(EffnetsError, ValueError):
    """An image is unreadable, or cannot be resized to the input size of the network."""


class MissingFileError(EffnetsError, FileNotFoundError):
    """A file or folder does not exist."""


class EngineError(EffnetsError, RuntimeError):
    """An engine is not installed, or fails to load or to execute a model."""


class VerificationError(EffnetsError, RuntimeError):
    """An exported model does not compute the same as its network; nothing was written."""


class ExportError(EffnetsError, RuntimeError):
    """A model cannot be exported, or its file cannot be written."""


class ReportError(EffnetsError, OSError):
    """A report cannot be written: no permission, or a full disk."""


class TrainingError(EffnetsError, RuntimeError):
    """Training failed, or the output folder is unusable; checkpoints written before are intact."""


class TrainingInterruptedError(TrainingError):
    """A signal interrupted training; its state is saved. Continue with ``resume``.

    Attributes:
        signal: its number.
    """

    def __init__(self, message: str, signal: int) -> None:
        super().__init__(message)
        self.signal = signal


class QuantizationError(EffnetsError, RuntimeError):
    """A model in int8 is less accurate than in float; nothing was written.

    Attributes:
        report: an `effnets.QuantizeReport` with the figures and the layers at fault.
    """

    def __init__(self, message: str, report: object = None) -> None:
        super().__init__(message)
        self.report = report
