"""Fitting in epochs: length, optimizer, early stopping, the plateau, and the frozen start of an encoder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from benchmark.context import Context
from benchmark.errors import UserError
from benchmark.features_trained import Finetuned, TrainedEncoder
from benchmark.types import InputSpec, Protocol
from tasks.heads.epochs import EpochSchedule, schedule_of
from tasks.heads.fit import Schedule
from tasks.heads.loop import Problem, fit
from tasks.protocols_dense import SEGMENTATION
from tasks.published.segmentation import PROTOCOLS

NAMES = ["a", "b", "c", "d", "e"]
PLAIN = EpochSchedule(
    protocol="p", epochs=4, batch_size=2, optimizer="adam", learning_rate=0.1, weight_decay=0.0, monitor="dice"
)  # fmt: skip


@pytest.fixture
def context(tmp_path: Path) -> Context:
    return Context(device=torch.device("cpu"), cache=tmp_path, progress=False)


class Line(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.zeros(()))


class Traced:
    """A fit whose evaluations give what a test says, and what it saw at each."""

    def __init__(self, head: nn.Module, values: Sequence[dict[str, float]], term: Callable[[], Tensor]) -> None:
        self.head, self.values, self.term = head, iter(values), term
        self.batches: list[list[int]] = []
        self.states: list[dict[str, Tensor]] = []

    def loss(self, rows: Sequence[int], epochs: Sequence[int]) -> dict[str, Tensor]:
        self.batches.append(list(rows))
        return {"term": self.term()}

    def evaluate(self) -> dict[str, float]:
        assert not self.head.training
        self.states.append({name: item.clone() for name, item in self.head.state_dict().items()})
        return next(self.values)

    def run(self, schedule: EpochSchedule, context: Context) -> float:
        problem = Problem(module=self.head, loss=self.loss, uids=NAMES, evaluate=self.evaluate)
        return fit(problem, schedule, context).score


def falling(line: Line) -> Callable[[], Tensor]:
    return lambda: -line.slope * 1.0


def test_an_epoch_is_the_full_batches_of_the_rows_and_ends_with_an_evaluation(context: Context) -> None:
    assert PLAIN.length(5) == (8, 2)
    assert PLAIN.length(1) == (4, 1)
    line = Line()
    traced = Traced(line, [{"dice": 0.1 * step} for step in range(4)], falling(line))
    assert traced.run(PLAIN, context) == pytest.approx(0.3)
    assert len(traced.batches) == 8
    assert len(traced.states) == 4
    assert sorted(row for rows in traced.batches[:5] for row in rows) == sorted(list(range(5)) * 2)


@pytest.mark.parametrize(("monitor", "sign"), [("dice", 1), ("loss", -1)])
def test_the_best_epoch_is_kept_and_the_fit_stops_when_patience_ends(monitor: str, sign: int, context: Context) -> None:
    line = Line()
    values = [{monitor: sign * value} for value in (0.2, 0.5, 0.4, 0.5, 0.9, 0.9)]
    traced = Traced(line, values, falling(line))
    best = traced.run(replace(PLAIN, epochs=6, monitor=monitor, stop_patience=2), context)
    assert best == 0.5  # a higher score is a lower loss
    assert len(traced.states) == 4  # two evaluations without a better one: equal is not better
    assert line.slope == traced.states[1]["slope"] != traced.states[3]["slope"]


def test_a_value_that_is_not_a_number_is_never_the_best(context: Context) -> None:
    line = Line()
    traced = Traced(line, [{"dice": value} for value in (float("nan"), 0.3, float("nan"), 0.2)], falling(line))
    assert traced.run(PLAIN, context) == 0.3
    assert line.slope == traced.states[1]["slope"]


def test_all_epochs_run_and_the_last_is_kept_where_there_is_no_val(context: Context) -> None:
    line = Line()
    traced = Traced(line, [], falling(line))
    score = fit(Problem(module=line, loss=traced.loss, uids=NAMES), replace(PLAIN, stop_patience=1), context).score
    assert score != score
    assert len(traced.batches) == 8
    assert line.slope > 0.7


def test_rates_halve_when_the_plateau_outlasts_its_patience(context: Context) -> None:
    line = Line()
    losses = (1.0, 0.9, 0.9, 0.9, 0.9, 0.9, 0.8)
    values = [{"dice": 0.1 * index, "loss": loss} for index, loss in enumerate(losses)]
    traced = Traced(line, values, falling(line))
    traced.run(replace(PLAIN, epochs=7, plateau="loss", plateau_patience=3), context)
    slopes = [0.0, *(float(state["slope"]) for state in traced.states)]
    moves = [after - before for before, after in pairwise(slopes)]  # Adam moves by its rate under even gradients
    assert moves == pytest.approx([0.2] * 6 + [0.1], rel=1e-4)


@pytest.mark.parametrize(("name", "kind"), [("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW)])
def test_the_optimizer_is_the_one_that_is_named(name: str, kind: type[torch.optim.Optimizer], context: Context) -> None:
    line, other = Line(), Line()
    schedule = replace(PLAIN, optimizer=name, weight_decay=0.5)
    fit(Problem(module=line, loss=lambda rows, epochs: {"square": (line.slope - 1) ** 2}, uids=NAMES), schedule, context)
    optimizer = kind(other.parameters(), lr=0.1, weight_decay=0.5)
    for _ in range(8):
        optimizer.zero_grad()
        ((other.slope - 1) ** 2).backward()
        optimizer.step()
    assert line.slope.item() == pytest.approx(other.slope.item())


def test_a_loss_that_is_not_finite_names_the_step_and_the_rows_and_changes_nothing_more(context: Context) -> None:
    line, step = Line(), iter(range(9))
    traced = Traced(line, [{"dice": 0.0}] * 4, lambda: line.slope * (float("inf") if next(step) == 2 else 1.0))
    with pytest.raises(UserError, match=r"not finite at step 3 \(rows [a-e], [a-e], ...\)"):
        traced.run(PLAIN, context)
    assert line.slope == traced.states[0]["slope"]


# -------------------------------------------------------------------------------------------- with an encoder


class Scaled(nn.Module):
    """One map: the image times a weight, through a batch norm."""

    input = InputSpec(size=8)
    feature_info = ((1, 1),)

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))
        self.norm = nn.BatchNorm2d(1)

    def feature_maps(self, images: Tensor) -> tuple[Tensor, ...]:
        return (self.norm(images * self.weight),)


def finetuned(freeze_bn: bool = False) -> Finetuned:
    return Finetuned(TrainedEncoder(Scaled(), freeze_bn=freeze_bn), nn.Conv2d(1, 1, 1))


def moves(model: Finetuned, schedule: EpochSchedule, context: Context) -> list[tuple[float, float, float]]:
    """By step: how far the head, the encoder and its running mean moved."""
    images = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    seen = []

    def loss(rows: Sequence[int], epochs: Sequence[int]) -> dict[str, Tensor]:
        state = model.state_dict()
        names = ("head.bias", "encoder.method.norm.bias", "encoder.method.norm.running_mean")
        seen.append(tuple(state[name].item() for name in names))
        return {"sum": -model.head(model.encoder(images)[0]).mean() - model.encoder.method.norm.bias.sum()}

    fit(Problem(module=model, loss=loss, uids=NAMES), schedule, context)
    return [tuple(abs(b - a) for a, b in zip(one, two)) for one, two in pairwise(seen)]  # type: ignore[misc]


def test_the_encoder_stays_through_the_frozen_steps_and_the_head_has_its_own_rate_there(context: Context) -> None:
    schedule = replace(PLAIN, frozen_steps=3, frozen_learning_rate=0.01)
    found = moves(finetuned(), schedule, context)
    assert [step[0] for step in found] == pytest.approx([0.01] * 3 + [0.1] * 4, rel=1e-3)
    assert [step[1] for step in found[:3]] == [0, 0, 0]
    assert [step[2] for step in found[:3]] == [0, 0, 0]  # batch statistics included
    assert all(step[1] > 0 and step[2] > 0 for step in found[3:])


def test_the_encoder_has_a_rate_of_its_own(context: Context) -> None:
    found = moves(finetuned(), replace(PLAIN, encoder_learning_rate=0.001), context)
    assert [step[0] for step in found] == pytest.approx([0.1] * 7, rel=1e-3)
    assert found[0][1] == pytest.approx(0.001, rel=1e-2)


def test_frozen_batch_statistics_stay_while_the_encoder_learns(context: Context) -> None:
    found = moves(finetuned(freeze_bn=True), PLAIN, context)
    assert all(step[2] == 0 and step[1] > 0 for step in found)


# ------------------------------------------------------------------------------------------------ of literals


@pytest.mark.parametrize("protocol", PROTOCOLS, ids=lambda protocol: protocol.name)
def test_every_published_literal_states_a_schedule_in_epochs(protocol: Protocol) -> None:
    schedule = schedule_of(protocol)
    assert isinstance(schedule, EpochSchedule)
    assert schedule.protocol == protocol.hash
    assert schedule.monitor in ("loss", "dice_micro", "dice_empty1", "dice_nonempty")


def test_protocols_in_steps_keep_their_schedule() -> None:
    assert all(isinstance(schedule_of(item), Schedule) for found in SEGMENTATION.values() for item in found)
