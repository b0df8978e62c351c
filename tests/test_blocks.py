"""Blocks that are computed twice, by kind of batch norm: statistics move once."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from benchmark.collectives import SharedBatchNorm
from benchmark.training.blocks import checkpoint_blocks


@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize("kind", [nn.BatchNorm1d, nn.SyncBatchNorm, SharedBatchNorm])
def test_statistics_of_every_kind_of_batch_norm_move_once(kind: type[nn.Module], momentum: float | None) -> None:
    def network() -> nn.Sequential:
        torch.manual_seed(0)
        return nn.Sequential(nn.Sequential(nn.Sequential(nn.Linear(3, 4), kind(4, momentum=momentum)))).train()

    plain, twice = network(), network()
    checkpoint_blocks(twice)
    rows = torch.randn(6, 3)
    for model in (plain, twice):
        for _ in range(2):
            model(rows).square().sum().backward()
    found, expected = twice.state_dict(), plain.state_dict()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert int(found["0.0.1.num_batches_tracked"]) == 2
    assert found.keys() == expected.keys()
    for one, other in zip(twice.parameters(), plain.parameters()):
        assert torch.allclose(one.grad, other.grad)  # type: ignore[arg-type]
