"""A linear layer on frozen features, trained by gradient descent as papers train it; the features are computed once."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmark.context import Context
from benchmark.repro import seeded
from benchmark.types import Protocol
from tasks.heads.loop import Problem
from tasks.heads.supervised import Decide, Labelled, Rounds, Training, criterion_of, fit_rounds, value_on


def fit_probe(train: Labelled, val: Labelled, protocol: Protocol, context: Context) -> Decide:
    """The loss of the protocol over the known labels of all classes at once; the best round on val.

    Returns:
        Features (N, W) -> log-odds (N, K) float64.

    Raises:
        UserError: a loss is not finite.
    """
    criterion = criterion_of(protocol)
    known = criterion.known(train.labels)
    rows = np.flatnonzero(known)
    features = torch.from_numpy(train.features[rows].astype(np.float32))
    targets = torch.from_numpy(train.labels[rows].astype(np.float32))
    with seeded("linear probe", context.eval_seed):
        head = nn.Linear(features.shape[1], targets.shape[1]).to(context.device)
    training = Training.of(protocol)

    def decide(values: NDArray[Any]) -> NDArray[np.float64]:
        with torch.no_grad():
            logits = head(context.to_device(torch.from_numpy(values.astype(np.float32))))
        return np.asarray(logits.double().cpu().numpy())

    def loss(chosen: Any, epochs: Any) -> dict[str, Tensor]:
        del epochs
        return {"loss": criterion.summed(head(context.to_device(features[chosen])), context.to_device(targets[chosen]))}

    problem = Problem(
        module=head,
        loss=loss,
        known=known[rows].tolist(),
        uids=[train.uids[row] for row in rows],
        evaluate=lambda: value_on(decide(val.features), val.labels, training.selection, criterion),
        scaled=context.precision == "fp16",
    )
    fit_rounds(problem, Rounds(training, [{"params": list(head.parameters())}], protocol.hash), context)
    return decide
