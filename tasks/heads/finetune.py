"""Fine-tuning of a whole image encoder under a linear layer, on a copy: the method's own weights stay as they are."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from benchmark.context import Context
from benchmark.data.dataset import Dataset
from benchmark.data.transform import augment, to_input
from benchmark.errors import Unsupported
from benchmark.features import in_batches, pixels
from benchmark.repro import seeded
from benchmark.types import Protocol, Record
from tasks.heads.loop import Problem
from tasks.heads.supervised import Rounds, Training, criterion_of, fit_rounds, value_on


class Tuned(nn.Module):
    """A copy of a method's image encoder and a linear layer on its tower features.

    The parameters that the tower features depend on are found by one backward pass and trained, all of them, those included
    that pretraining left as drawn; a method comes here frozen.

    Args:
        freeze_bn: batch norms keep their running statistics in training; their scales and shifts are trained all the same.

    Raises:
        Unsupported: the method has no `tower_features`, or they give no gradient.
    """

    def __init__(self, method: Any, classes: int, freeze_bn: bool, seed: int) -> None:
        super().__init__()
        if not hasattr(method, "tower_features"):
            raise Unsupported(f"{method.name} has no tower_features, the differentiable image encoder that fine-tuning needs")
        self.method, self.freeze_bn = deepcopy(method).eval().requires_grad_(True), freeze_bn
        size, device = method.input, next(method.parameters()).device
        trained = list(self.method.parameters())
        with torch.enable_grad():
            features = self.method.tower_features(torch.zeros(2, size.channels, size.size, size.size, device=device))
        if not features.requires_grad:
            raise Unsupported(f"tower_features of {method.name} give no gradient, and fine-tuning needs one")
        reached = torch.autograd.grad(features.sum(), trained, allow_unused=True)
        for item, gradient in zip(trained, reached):
            item.requires_grad_(gradient is not None)
        with seeded("fine-tuned head", seed):
            self.head = nn.Linear(features.shape[1], classes).to(device)

    def train(self, mode: bool = True) -> Self:
        """As any module; frozen batch norms stay in eval mode."""
        super().train(mode)
        for module in self.modules():
            if self.freeze_bn and isinstance(module, _BatchNorm):
                module.eval()
        return self

    def forward(self, images: Tensor) -> Tensor:
        """images (B, C, h, w) float32 -> log-odds (B, K)."""
        return torch.as_tensor(self.head(self.method.tower_features(images)))

    def groups(self, rate: float, encoder_rate: float) -> list[dict[str, Any]]:
        """Parameters with their rates; the weight decay is on matrices alone, as in pretraining."""
        found = []
        for module, factor in ((self.method, encoder_rate), (self.head, 1.0)):
            trained = [item for item in module.parameters() if item.requires_grad]
            found.append({"params": [item for item in trained if item.ndim > 1], "lr": rate * factor})
            found.append({"params": [item for item in trained if item.ndim <= 1], "lr": rate * factor, "weight_decay": 0.0})
        return found


class FineTuning:
    """One cell: a copy of the method, trained on some rows and selected on others.

    Args:
        data: whose cached pixels are read.
    """

    def __init__(self, method: Any, data: Dataset, protocol: Protocol, context: Context) -> None:
        self.method, self.data, self.protocol, self.context = method, data, protocol, context
        self.tuned: Tuned

    def fit(
        self, train: tuple[Sequence[Record], NDArray[Any]], val: tuple[Sequence[Record], NDArray[Any]]
    ) -> NDArray[np.float64]:
        """Trains on records and labels (N, K), and returns the log-odds of the val rows, (N, K) float64.

        Batches over the run's batch size are accumulated in parts of it; half of it again where memory runs out.

        Raises:
            Unsupported: the method cannot be trained. UserError: a loss is not finite.
        """
        training, (val_records, val_labels) = Training.of(self.protocol), val
        criterion = criterion_of(self.protocol)
        known = criterion.known(train[1])
        kept = np.flatnonzero(known).tolist()
        records, targets = [train[0][row] for row in kept], torch.from_numpy(train[1][kept].astype(np.float32))
        self.tuned = Tuned(self.method, targets.shape[1], self.protocol.setting("freeze_bn"), self.context.eval_seed)
        self.tuned.to(self.context.device)

        def loss(rows: Sequence[int], epochs: Sequence[int]) -> dict[str, Tensor]:
            images = self._augmented([records[row] for row in rows], epochs[0])  # a batch is of one epoch
            drawn = (self.protocol.hash, self.context.eval_seed, epochs[0], records[rows[0]].uid)
            with seeded("dropout", *drawn), self.context.autocast():
                logits = self.tuned(images)
            return {"loss": criterion.summed(logits, self.context.to_device(targets[list(rows)]))}

        problem = Problem(
            module=self.tuned,
            loss=loss,
            known=known[kept].tolist(),
            uids=[record.uid for record in records],
            evaluate=lambda: value_on(self.scores(val_records), val_labels, training.selection, criterion),
            at_once=self.context.batch_size,
            scaled=self.context.precision == "fp16",
        )
        groups = self.tuned.groups(training.learning_rate, self.protocol.setting("encoder_rate"))
        fit_rounds(problem, Rounds(training, groups, self.protocol.hash), self.context)
        self.context.notes["trained_params"] = sum(item.numel() for group in groups for item in group["params"])
        return self.scores(val_records)

    @torch.no_grad()
    def scores(self, records: Sequence[Record]) -> NDArray[np.float64]:
        """Log-odds of the rows, (N, K) float64, without augmentation. Raises UserError where there are no rows."""

        def call(rows: range) -> Tensor:
            with self.context.autocast():
                return torch.as_tensor(self.tuned(pixels(self.method, self.data, [records[row] for row in rows], self.context)))

        return np.asarray(in_batches(len(records), self.context, call, "encode images").double().numpy())

    def _augmented(self, records: Sequence[Record], epoch: int) -> Tensor:
        """(B, C, h, w) float32 on the device; what is drawn depends on (eval seed, epoch, uid) alone, as in pretraining."""
        raw = torch.from_numpy(self.data.pixels(self.method.input, self.context).take(records)).unsqueeze(1)
        uids, strength = [record.uid for record in records], self.protocol.setting("augment")
        images = augment(self.context.to_device(raw), uids, self.context.eval_seed, epoch, strength)
        return to_input(images, self.method.input)
