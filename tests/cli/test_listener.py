"""What a person at a terminal reads while a network trains."""

from __future__ import annotations

from effnets.cli.callbacks import EpochPrinter
from effnets.report.summary import EpochRow


def test_a_line_for_each_epoch_also_without_validation(capsys):
    printer = EpochPrinter(None)
    printer.row(EpochRow(phase="head", epoch=1, train_loss=2.5))
    printer.row(EpochRow(phase="all", epoch=0))
    printer.row(EpochRow(phase="all", epoch=1, train_loss=1.25, seconds=2.0, images=50))
    printer.row(EpochRow(phase="all", epoch=2, train_loss=1.0, val_top1=90.0, average_top1=91.0))
    assert capsys.readouterr().out.splitlines() == [
        "classifier alone, epoch 1: loss 2.500",
        "epoch 1: loss 1.250, 25 images/s",
        "epoch 2: loss 1.000, validation 90.0 %, average 91.0 %",
    ]
