"""Rows of several processes come back in the order of the images."""

from __future__ import annotations

import pytest
import torch

from effnets.evaluation.validate import _in_order


class OneOf:
    """An accelerator's part, with what the other processes hold."""

    device = torch.device("cpu")

    def __init__(self, own, others):
        self.rows, self.num_processes = [own, *others], 1 + len(others)

    def gather(self, tensor):
        if tensor.shape == (1,):
            return torch.tensor([len(rows) for rows in self.rows])
        longest = max(map(len, self.rows))
        return torch.cat(
            [torch.cat([rows, rows.new_zeros(longest - len(rows), *rows.shape[1:])]) for rows in self.rows]
        )

    def pad_across_processes(self, tensor):
        return tensor


@pytest.mark.parametrize("shape", [(7,), (7, 3)])
def test_rows_of_all_processes_are_in_order(shape):
    rows = torch.arange(1.0, 1 + torch.Size(shape).numel()).view(shape)
    parts = [rows[process::3] for process in range(3)]
    assert torch.equal(_in_order(parts[0], OneOf(parts[0], parts[1:])), rows)
