"""A training or an evaluation as a page that needs nothing but a browser."""

from effnets.report.write import EpochRow, RunSummary, write_report

__all__ = ["EpochRow", "RunSummary", "write_report"]
