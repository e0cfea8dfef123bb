"""A callback that ends a training in its midst."""

from __future__ import annotations

from effnets.train.callbacks import Callback


class Interrupting(Callback):
    """Ends the training at its second epoch, as if it were killed."""

    def on_epoch_end(self, row):
        if row.epoch == 2:
            raise KeyboardInterrupt
