"""One of several classes by softmax cross-entropy, as MGCA does of COVIDx: loss, probe, fine-tuning, sets that lack classes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score
from torch import nn

from benchmark import repro
from benchmark.context import Context
from benchmark.types import Protocol
from tasks.classification import Classification
from tasks.heads.probe import fit_probe
from tasks.heads.supervised import LOSS, SOFTMAX, Labelled, summed_softmax_loss, value_on
from tasks.published import classification as published
from tests.conftest import TINY, Command
from tests.five import FiveSource
from tests.replicas import covidx
from tests.test_multiclass import BenchOf
from tests.test_tasks_text import Bench

PROBE, TUNED = (
    next(item for item in published.PROTOCOLS if item.name == f"{name}-covidx") for name in ("probe-mgca", "finetune-linear")
)
FIVE = "Atelectasis,Cardiomegaly,Consolidation,Edema,Pleural Effusion"


def changed(protocol: Protocol, **settings: Any) -> Protocol:
    return replace(protocol, settings=tuple(sorted({**dict(protocol.settings), **settings}.items())))


def drawn(n: int, seed: int = 0) -> Labelled:
    draw = np.random.default_rng(seed)
    features = draw.normal(size=(n, 5)).astype(np.float32)
    classes = (features[:, :3] + 0.3 * draw.normal(size=(n, 3))).argmax(axis=1)
    return Labelled(tuple(f"u{row:03d}" for row in range(n)), features, np.eye(3, dtype=np.float32)[classes])


def test_the_loss_is_torchs_cross_entropy() -> None:
    logits, classes = torch.randn(7, 3, dtype=torch.float64), torch.tensor([0, 1, 2, 2, 1, 0, 0])
    targets = torch.eye(3)[classes]
    expected = nn.functional.cross_entropy(logits.float(), classes, reduction="sum")
    torch.testing.assert_close(summed_softmax_loss(logits, targets), expected)
    found = value_on(logits.numpy(), targets.numpy(), LOSS, SOFTMAX)
    assert found == pytest.approx(float(expected) / 7, rel=1e-6)


def test_the_probe_is_adamw_on_the_mean_cross_entropy(tmp_path: Path) -> None:
    train, val = drawn(40), drawn(30, seed=1)
    context = Context(device=torch.device("cpu"), cache=tmp_path, progress=False)
    decide = fit_probe(train, val, changed(PROBE, rounds=5, learning_rate=0.05), context)
    with repro.seeded("linear probe", 0):
        head = nn.Linear(5, 3)
    optimizer = torch.optim.AdamW(head.parameters(), lr=0.05, betas=(0.9, 0.999), weight_decay=1e-6)
    for _ in range(5):  # 40 rows are one batch of 48
        optimizer.zero_grad()
        labels = torch.from_numpy(train.labels.argmax(axis=1))
        nn.functional.cross_entropy(head(torch.from_numpy(train.features)), labels).backward()
        optimizer.step()
    assert context.notes["best_round"] == 5
    np.testing.assert_allclose(decide(val.features), head(torch.from_numpy(val.features)).detach().numpy(), atol=1e-5)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return BenchOf(tmp_path_factory.mktemp("softmax"), "random")


@pytest.mark.parametrize("protocol", [PROBE, TUNED], ids=lambda item: item.name)
def test_each_row_has_one_answer_and_accuracy_is_that_of_scikit_learn(protocol: Protocol, bench: Bench) -> None:
    from benchmark.data.dataset import Dataset

    short = changed(protocol, classes=FIVE, rounds=2, round_steps=3, learning_rate=3e-3)
    data, context = Dataset(FiveSource()), bench.context()
    found = Classification().run(bench.method, data, short, 1.0, context)
    arrays = found.arrays
    np.testing.assert_allclose(arrays["predicted"].sum(axis=1), 1)
    assert all(record.labels.count(1.0) == 1 for record in data.rows("test") if record.uid in set(found.uids))
    values = Classification().score(found, short, np.ones((1, len(found.uids))))
    assert values["accuracy"][0] == pytest.approx(accuracy_score(arrays["targets"], arrays["scores"].argmax(axis=1)))
    assert context.notes["rows_left_out"] == len(data.rows("test")) - len(found.uids) > 0
    rows = Classification().references(found, data, short)
    assert set(rows) == {"uniform guess", "majority class"}
    assert Classification().degenerate(rows["majority class"], short)


def test_classes_that_a_fraction_lacks_are_named_and_the_others_are_fitted(bench: Bench) -> None:
    from benchmark.data.dataset import Dataset

    context = bench.context()
    found = Classification().run(bench.method, Dataset(FiveSource()), changed(PROBE, classes=FIVE, rounds=2), 0.02, context)
    assert context.notes["train_rows"] in (1, 2)
    assert len(str(context.notes["classes_without_train_rows"]).split(", ")) >= 3
    assert np.isfinite(found.arrays["scores"]).all()


@pytest.mark.parametrize("three", [True, False])
def test_it_runs_on_the_lists_of_three_classes_and_says_which_the_others_lack(
    three: bool, tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = changed(TUNED, rounds=2, round_steps=2)
    monkeypatch.setattr(published, "PROTOCOLS", tuple(short if item == TUNED else item for item in published.PROTOCOLS))
    (covidx.write_three if three else covidx.write)(tmp_path / "data", patients=24)
    words = ("--data-root", str(tmp_path / "data"), "--protocol", f"{PROBE.name},{TUNED.name}", "--labels", "1")
    plain = tuple(item for item in TINY if not item.startswith(("text", "max_tokens", "embed_dim")))
    split = ("--split", "mgca") if three else ()
    command.run("simclr", "classification", *words, *split, settings=(*plain, "steps=2", "batch_size=8"), data="covidx")
    found = command.results()
    assert [result.status for result in found] == ["ok" if three else "unsupported"] * 2, command.error
    if three:
        assert all(result.primary == "accuracy" and "split_differs" not in result.notes for result in found)
    else:
        assert all("lacks Normal, Pneumonia" in str(result.error) for result in found)
