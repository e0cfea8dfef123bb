"""What the console shows of a training."""

from __future__ import annotations

from effnets.cli.training import ConsoleCallback
from effnets.report.write import EpochRow


def test_a_line_for_each_epoch_also_without_validation(capsys):
    printer = ConsoleCallback(None)
    printer.on_epoch_end(EpochRow(phase="head", epoch=1, train_loss=2.5))
    printer.on_epoch_end(EpochRow(phase="all", epoch=0))
    printer.on_epoch_end(EpochRow(phase="all", epoch=1, train_loss=1.25, seconds=2.0, images=50))
    printer.on_epoch_end(EpochRow(phase="all", epoch=2, train_loss=1.0, val_top1=90.0, average_top1=91.0))
    assert capsys.readouterr().out.splitlines() == [
        "classifier alone, epoch 1: loss 2.500",
        "epoch 1: loss 1.250, 25 images/s",
        "epoch 2: loss 1.000, validation 90.0 %, average 91.0 %",
    ]
