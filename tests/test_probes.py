"""Heads on frozen features: the supervised loop, MGCA's and GLoRIA's probes, the logistic solvers, nearest neighbours."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

from benchmark.context import Context
from benchmark.errors import UserError
from benchmark.types import Protocol
from tasks.heads import logistic, supervised
from tasks.heads.logistic import fit_logistic, solve_scikit, solve_torch
from tasks.heads.loop import Problem
from tasks.heads.neighbours import fit_neighbours
from tasks.heads.probe import fit_probe
from tasks.heads.supervised import AREA, LOSS, Labelled, Rounds, Training, fit_rounds, value_on
from tasks.protocols import CLASSIFICATION
from tasks.published.classification import PROTOCOLS

LITERALS = {protocol.name: protocol for protocol in PROTOCOLS}
TRAINING = Training(
    optimizer="adamw", learning_rate=0.1, weight_decay=0.0, beta1=0.9, beta2=0.999, batch_size=4, rounds=9, round_steps=1,
    patience=3, clip_norm=0.0, schedule="constant", selection=LOSS,
)  # fmt: skip


@pytest.fixture
def context(tmp_path: Path) -> Context:
    return Context(device=torch.device("cpu"), cache=tmp_path, progress=False)


def drawn(n: int, width: int = 6, classes: int = 2, seed: int = 0, unknown: float = 0.1) -> Labelled:
    """Features with a scale of their own each, labels that lean on them, some unknown."""
    draw = np.random.default_rng(seed)
    features = draw.normal(size=(n, width)) * np.linspace(0.5, 2, width)
    labels = (features[:, :classes] + draw.normal(size=(n, classes)) > 0.3).astype(np.float32)
    labels[draw.random(labels.shape) < unknown] = np.nan
    return Labelled(tuple(f"u{row:03d}" for row in range(n)), features.astype(np.float32), labels)


def changed(protocol: Protocol, **settings: Any) -> Protocol:
    return replace(protocol, settings=tuple(sorted({**dict(protocol.settings), **settings}.items())))


class Line(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.zeros(()))
        self.register_buffer("seen", torch.zeros(()))


def problem(evaluate: Callable[[], float], loss: Any = None, n: int = 4, **more: Any) -> Problem:
    line = Line()

    def down(rows: Sequence[int], epoch: int) -> Tensor:
        return line.slope * len(rows)

    summed = loss(line) if loss else down
    words = {"known": [1] * n, "uids": [f"u{row}" for row in range(n)], **more}
    return Problem(module=line, loss=lambda rows, epochs: {"loss": summed(rows, epochs[0])}, evaluate=evaluate, **words)


def train(item: Problem, training: Training, context: Context) -> None:
    fit_rounds(item, Rounds(training, [{"params": list(item.module.parameters())}], "p"), context)


# ------------------------------------------------------------------------------------------- early stopping


@pytest.mark.parametrize(
    ("values", "rounds", "best"),
    [
        ([5, 4, 4, 4, 4, 1], 5, 2),  # three rounds that are no better: an equal value is not
        ([5, 6, 7, 4, 5, 6, 7, 1], 7, 4),  # a better one starts the count again
        ([5, math.nan, math.nan, math.nan, 6, 4, 7, 8, 3], 9, 9),  # undefined rounds do not count
        ([9, 8, 7, 6, 5, 4, 3, 2, 1], 9, 9),
    ],
)
@pytest.mark.parametrize("selection", [LOSS, AREA])
def test_training_ends_after_the_patience_and_the_best_round_is_kept(
    selection: str, values: list[float], rounds: int, best: int, context: Context
) -> None:
    sign = 1.0 if selection == LOSS else -1.0
    slopes: list[float] = []

    def evaluate() -> float:
        slopes.append(item.module.slope.item())
        return sign * values[len(slopes) - 1]

    item = problem(evaluate)
    train(item, replace(TRAINING, selection=selection), context)
    assert (context.notes["rounds"], context.notes["best_round"]) == (rounds, best)
    assert context.notes["val_score"] == sign * values[best - 1]
    assert item.module.slope.item() == slopes[best - 1]
    assert len(slopes) == rounds
    assert not item.module.training


def test_where_val_is_never_defined_all_rounds_are_run_and_the_last_is_kept(context: Context) -> None:
    item = problem(lambda: math.nan)
    train(item, TRAINING, context)
    assert context.notes["rounds"] == 9
    assert context.notes["best_round"] == 0
    assert "val_score" not in context.notes
    assert item.module.slope.item() == pytest.approx(-0.9)


def test_an_epoch_is_every_row_once_and_never_a_batch_of_one(context: Context) -> None:
    seen: list[tuple[int, list[int]]] = []

    def loss(line: Line) -> Any:
        return lambda rows, epoch: seen.append((epoch, list(rows))) or line.slope * len(rows)

    train(problem(lambda: 0.0, loss, n=9), replace(TRAINING, round_steps=0, rounds=3), context)
    assert [len(rows) for _, rows in seen] == [4, 5] * 3
    assert [epoch for epoch, _ in seen] == [0, 0, 1, 1, 2, 2]
    epochs = [seen[index][1] + seen[index + 1][1] for index in (0, 2, 4)]
    assert all(sorted(rows) == list(range(9)) for rows in epochs)
    assert epochs[0] != epochs[1]


def test_a_plateau_halves_the_rate_and_a_cosine_ends_at_zero(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    rates: list[float] = []

    class Recorded(torch.optim.AdamW):
        def step(self, closure: Any = None) -> None:
            rates.append(float(self.param_groups[0]["lr"]))

    monkeypatch.setitem(supervised.OPTIMIZERS, "adamw", Recorded)  # type: ignore[arg-type]
    train(problem(lambda: 1.0), replace(TRAINING, schedule="plateau:0.5,1,2", patience=99), context)
    assert rates == [0.1] * 6 + [0.05] * 3  # looks at rounds 2, 4, 6: the second one that is no better
    rates.clear()
    train(problem(lambda: 1.0), replace(TRAINING, schedule="cosine:2", rounds=8, patience=99), context)
    expected = [0.05, 0.1, *(0.05 * (1 + math.cos(math.pi * step / 6)) for step in range(6))]
    assert rates == pytest.approx(expected)


# --------------------------------------------------------------------------------- accumulation and guards


@pytest.mark.parametrize("failing", [False, True])
def test_a_batch_in_parts_gives_the_gradient_of_the_whole(failing: bool, context: Context) -> None:
    x, known = torch.randn(12, 3, generator=torch.Generator().manual_seed(0)), [1, 3, 1, 1, 2, 1, 1, 1, 2, 1, 1, 1]
    sizes: list[int] = []

    def run(at_once: int, most: int) -> tuple[float, float]:
        def loss(line: Line) -> Any:
            def summed(rows: Sequence[int], epoch: int) -> Tensor:
                line.seen += len(rows)
                sizes.append(len(rows))
                if len(rows) > most:
                    raise torch.OutOfMemoryError("the card is full")
                return torch.stack([known[row] * (line.slope - x[row].sum()) ** 2 for row in rows]).sum()

            return summed

        item = problem(lambda: 1.0, loss, n=12, at_once=at_once)
        item = replace(item, known=known)
        train(item, replace(TRAINING, batch_size=12, rounds=5, patience=9), context)
        return item.module.slope.item(), item.module.seen.item()

    whole = run(12, 12)
    sizes.clear()
    parts = run(12 if failing else 3, 3 if failing else 12)
    assert parts == pytest.approx(whole, abs=1e-6)  # statistics of what was done again do not count twice
    assert context.notes["batch_part"] == 3
    assert sizes[-4:] == [3, 3, 3, 3]


def test_memory_that_one_row_exhausts_is_an_error(context: Context) -> None:
    def loss(line: Line) -> Any:
        def full(rows: Sequence[int], epoch: int) -> Tensor:
            raise torch.OutOfMemoryError("the card is full")

        return full

    with pytest.raises(torch.OutOfMemoryError):
        train(problem(lambda: 1.0, loss), TRAINING, context)


def test_a_loss_that_is_not_finite_names_the_step_and_the_rows(context: Context) -> None:
    def loss(line: Line) -> Any:
        steps = iter(range(9))
        return lambda rows, epoch: line.slope * (math.nan if next(steps) == 2 else 1.0)

    with pytest.raises(UserError, match=r"not finite at step 3 \(rows u\d, u\d, u\d, u\d, \.\.\.\)"):
        train(problem(lambda: 1.0, loss), TRAINING, context)


# ------------------------------------------------------------------------------------------ papers' probes

MGCA = {"lr": 5e-4, "betas": (0.9, 0.999), "weight_decay": 1e-6}
GLORIA = {"lr": 1e-4, "betas": (0.5, 0.999), "weight_decay": 1e-6}
FACTS: dict[str, tuple[type[torch.optim.Optimizer], dict[str, Any], int, float]] = {
    "probe-mgca": (torch.optim.AdamW, MGCA, 48, 0.0),
    "probe-mgca-chexpert": (torch.optim.AdamW, MGCA, 48, 0.0),
    "probe-mgca-rsna": (torch.optim.AdamW, MGCA, 48, 0.0),
    "probe-gloria-chexpert": (torch.optim.Adam, GLORIA, 64, 0.25),
    "probe-gloria-rsna": (torch.optim.Adam, {**GLORIA, "lr": 5e-4}, 64, 0.0),
}


def plain_probe(train: Labelled, facts: Any, epochs: int, start: nn.Linear) -> nn.Linear:
    """Written from the papers' settings: all rows in one batch."""
    kind, words, _, clip = facts
    optimizer = kind(start.parameters(), **words)
    known = ~np.isnan(train.labels)
    for _ in range(epochs):
        optimizer.zero_grad()
        logits = start(torch.from_numpy(train.features))
        losses = [
            torch.nn.functional.softplus(-logits[row, k] if train.labels[row, k] else logits[row, k])
            for row, k in zip(*known.nonzero())
        ]
        (sum(losses) / len(losses)).backward()
        if clip:
            torch.nn.utils.clip_grad_norm_(start.parameters(), clip)
        optimizer.step()
    return start


@pytest.mark.parametrize("name", sorted(FACTS))
def test_a_probe_takes_the_steps_that_its_paper_states(name: str, context: Context) -> None:
    protocol, train = LITERALS[name], drawn(40)
    start = changed(protocol, learning_rate=0.0, weight_decay=0.0, rounds=1)
    begin = fit_probe(train, train, start, context)
    head = nn.Linear(6, 2)
    with torch.no_grad():
        bias = begin(np.zeros((1, 6)))
        head.bias.copy_(torch.from_numpy(bias[0]))
        head.weight.copy_(torch.from_numpy((begin(np.eye(6)) - bias).T))
    found = fit_probe(train, train, changed(protocol, rounds=20), context)(train.features)
    expected = plain_probe(train, FACTS[name], 20, head)(torch.from_numpy(train.features)).detach().numpy()
    assert np.allclose(found, expected, atol=1e-5)
    assert not np.allclose(found, begin(train.features), atol=1e-3)
    training = Training.of(protocol)
    assert training.batch_size == FACTS[name][2]
    assert (training.rounds, training.round_steps, training.patience, training.selection) == (50, 0, 10, LOSS)
    assert training.schedule == ("constant" if "mgca" in name else "plateau:0.5,5,3")
    assert protocol.fractions == (0.01, 0.1, 1.0)


def test_mgcas_probe_separates_what_is_linearly_separable(context: Context) -> None:
    draw = np.random.default_rng(0)
    labels = draw.integers(0, 2, (1200, 2)).astype(np.float32)
    features = draw.normal(size=(1200, 32))
    features[:, :2] += 8 * (labels - 0.5)
    uids = tuple(map(str, range(1200)))
    train, val = (Labelled(uids[part], features[part].astype(np.float32), labels[part]) for part in (np.s_[:960], np.s_[960:]))
    decide = fit_probe(train, val, LITERALS["probe-mgca"], context)
    scores = decide(val.features)
    assert [roc_auc_score(val.labels[:, k], scores[:, k]) for k in range(2)] == pytest.approx([1.0, 1.0], abs=1e-3)
    assert context.notes["val_score"] == pytest.approx(value_on(scores, val.labels, LOSS))
    assert value_on(scores, val.labels, LOSS) < 0.25  # 0.69 at the start


def test_a_val_without_a_positive_still_selects_by_its_loss(context: Context) -> None:
    train, val = drawn(60), drawn(20, seed=1)
    empty = replace(val, labels=np.where(np.isnan(val.labels), np.nan, 0.0).astype(np.float32))
    fit_probe(train, empty, LITERALS["probe-mgca"], context)
    assert context.notes["best_round"] > 0
    assert math.isnan(value_on(np.zeros((20, 2)), empty.labels, AREA))


# ------------------------------------------------------------------------------------- logistic regression


@pytest.mark.parametrize("penalty", [1e-4, 1e-2, 1.0, 100.0])
@pytest.mark.parametrize("separable", [False, True])
def test_the_torch_solver_is_at_scikit_learns_optimum(separable: bool, penalty: float, monkeypatch: pytest.MonkeyPatch) -> None:
    train = drawn(150, width=12)
    features = np.concatenate(
        [train.features, train.features[:, :2] + 1e-4 * train.features[:, 2:4]], axis=1
    )  # nearly collinear
    labels = (train.features[:, :2] > 0.3).astype(np.float32) if separable else train.labels
    train = Labelled(train.uids, features, labels)
    monkeypatch.setattr(logistic, "ROWS", 64)
    one, two = solve_scikit(train, penalty), solve_torch(train, penalty, torch.device("cpu"))
    first, second = (features @ weight.T + bias for weight, bias in (one, two))
    assert np.abs(first - second).max() < 1e-4
    assert np.ptp(first) > 1e-3


@pytest.mark.parametrize(("device", "large", "used"), [("cuda", 0, True), ("cuda", 2**24, False), ("cpu", 0, False)])
def test_the_torch_solver_is_for_large_sets_on_a_gpu(
    device: str, large: int, used: bool, context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []

    def counted(train: Labelled, penalty: float, where: torch.device) -> Any:
        calls.append(where.type)
        return solve_torch(train, penalty, torch.device("cpu"))

    monkeypatch.setattr(logistic, "solve_torch", counted)
    monkeypatch.setattr(logistic, "LARGE", large)
    context.device = torch.device(device)
    fit_logistic(drawn(40), drawn(20, seed=1), CLASSIFICATION[0], context)
    assert calls == (["cuda"] * 5 if used else [])


# --------------------------------------------------------------------------------------- nearest neighbours


def neighbours_by_hand(train: Labelled, query: NDArray[Any], k: int, temperature: float) -> list[float]:
    cosines = [float(query @ row / np.linalg.norm(query) / np.linalg.norm(row)) for row in train.features.astype(float)]
    nearest = sorted(range(len(cosines)), key=lambda row: -cosines[row])[:k]
    found = []
    for column in train.labels.T:
        votes = [(math.exp(cosines[row] / temperature), column[row]) for row in nearest if column[row] == column[row]]
        share = sum(w * y for w, y in votes) / sum(w for w, _ in votes) if votes else float(np.nanmean(column))
        found.append(share - 0.5)
    return found


@pytest.mark.parametrize("n", [7, 60])  # fewer rows than neighbours too
@pytest.mark.parametrize("unknown", [0.1, 0.9])
def test_neighbours_vote_as_in_a_loop(unknown: float, n: int, context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    train, queries = drawn(n, unknown=unknown, seed=3), drawn(9, seed=1).features
    train.labels[:2] = [[0, 1], [1, 0]]
    protocol = LITERALS["knn"]
    assert (protocol.setting("k"), protocol.setting("temperature")) == (20, 0.07)
    monkeypatch.setattr("tasks.heads.neighbours.QUERIES", 4)
    found = fit_neighbours(train, train, protocol, context)(queries)
    expected = [neighbours_by_hand(train, query.astype(float), 20, 0.07) for query in queries]
    assert np.allclose(found, expected, atol=1e-5)
