"""Retrieval of images by the queries of ConVIRT's 8x200: measures against loops, ties, its lists, and what lacks them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from benchmark.data.dataset import Dataset
from benchmark.data.opening import open_source
from benchmark.data.sources import SourceOptions
from benchmark.errors import Unavailable, UserError
from benchmark.types import Predictions, Record
from tasks import query_match
from tasks.published.retrieval import PROTOCOLS
from tasks.retrieval import Retrieval
from tasks.scoring import QUERY_DEPTHS
from tests.conftest import TINY, TRAINED, Command
from tests.replicas import chexpert

IMAGE, TEXT = (next(item for item in PROTOCOLS if item.name == f"retrieval-8x200-{kind}") for kind in ("image", "text"))
CLASSES = tuple(IMAGE.setting("classes").split(","))
quick = settings(max_examples=40, deadline=None)


def record(uid: str, labels: Any) -> Record:
    return Record(uid=uid, patient=uid, study=uid, split="test", image=uid, labels=tuple(labels))


def predictions(scores: NDArray[Any], labels: NDArray[Any], classes: NDArray[Any], own: bool = False) -> Predictions:
    """Of texts, or with `own` of the first candidates themselves."""
    queries = [query_match._Query(int(name), f"{'c' if own else 'q'}{n}", f"q{n}") for n, name in enumerate(classes)]
    candidates = [record(f"c{n}", row) for n, row in enumerate(labels)]
    return query_match._predictions(queries, candidates, scores, CLASSES, ())


def values(found: Predictions) -> dict[str, float]:
    scores = Retrieval().score(found, IMAGE, np.ones((1, len(found.uids))))
    return {name: float(value[0]) for name, value in scores.items()}


def drawn(seed: int, queries: int = 6, candidates: int = 60) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    draw = np.random.default_rng(seed)
    labels = (draw.random((candidates, 8)) < 0.3).astype(float)
    labels[draw.random(labels.shape) < 0.1] = np.nan
    return draw.normal(size=(queries, candidates)), labels, draw.integers(0, 8, queries)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("own", [False, True])
def test_measures_equal_a_walk_down_the_list(seed: int, own: bool) -> None:
    scores, labels, classes = drawn(seed)
    found = values(predictions(scores, labels, classes, own))
    expected: dict[str, list[float]] = {}
    for query, name in enumerate(classes):
        order = [place for place in np.argsort(-scores[query]) if not own or place != query]
        hits = np.array([labels[place, name] == 1 for place in order])
        for k in QUERY_DEPTHS:
            expected.setdefault(f"precision@{k}", []).append(hits[:k].mean())
        expected.setdefault("map", []).append((hits.cumsum() / np.arange(1, len(hits) + 1))[hits].mean())
    for name, parts in expected.items():
        assert found[name] == pytest.approx(np.mean(parts)), name


@quick
@given(st.integers(0, 99), st.randoms(use_true_random=False))
def test_neither_the_order_of_candidates_nor_a_constant_counts(seed: int, random: Any) -> None:
    scores, labels, classes = drawn(seed)
    first = values(predictions(scores, labels, classes))
    order = random.sample(range(60), 60)
    assert values(predictions(scores[:, order] + 7, labels[order], classes)) == pytest.approx(first, nan_ok=True)
    assert all(0 <= value <= 1 for value in first.values() if value == value)


def test_a_collapsed_encoder_scores_the_share_of_right_candidates_and_is_flagged() -> None:
    scores, labels, classes = drawn(0)
    flat = predictions(np.zeros_like(scores), labels, classes)
    share = np.mean([(labels[:, name] == 1).mean() for name in classes])
    found = values(flat)
    assert [found[f"precision@{k}"] for k in QUERY_DEPTHS] == pytest.approx([share] * 4)
    (row,) = Retrieval().references(flat, None, IMAGE).values()  # type: ignore[arg-type]
    assert values(row) == pytest.approx(found, nan_ok=True)
    assert Retrieval().degenerate(flat, IMAGE)
    assert not Retrieval().degenerate(predictions(scores, labels, classes), IMAGE)


# ---------------------------------------------------------------------------------------------------- lists


@pytest.fixture
def root(tmp_path: Path) -> Path:
    chexpert.write(tmp_path / "data", patients=24)
    return tmp_path / "data"


@pytest.fixture
def lists(root: Path) -> Path:
    """Frontal images of train.csv: six ask, the others and one that asks are candidates; eight texts ask."""
    source = open_source("chexpert", SourceOptions(root=root))
    uids = [item.uid for item in source.records if item.uid.startswith("train/") and item.view != "LATERAL"]
    uids = uids[: len(uids) // 2]  # the others stay to train on
    asked = dict(zip(uids[:6], CLASSES))
    texts = [(name, f"{name} is there.") for name in CLASSES]
    return chexpert.write_queries(root / "convirt", uids[5:], asked, texts)


def test_the_lists_of_its_repository_name_candidates_and_queries(root: Path, lists: Path) -> None:
    source = open_source("chexpert", SourceOptions(root=root), str(lists))
    test = [item for item in source.records if item.split == "test"]
    assert sum("query" in item.attributes for item in test) == 6
    assert sum("candidate" in item.attributes for item in test) == len(test) - 5
    assert not any(
        "query" in item.attributes or "candidate" in item.attributes for item in source.records if item.split != "test"
    )
    assert len(source.queries) == 8  # type: ignore[attr-defined]
    Retrieval().check(Dataset(source), IMAGE)
    Retrieval().check(Dataset(source), TEXT)
    others = open_source("chexpert", SourceOptions(root=root), str(chexpert.write_queries(
        root / "other", [item.uid for item in test][6:], {test[0].uid: "Edema"}, [("Edema", "Wet lungs.")])))  # fmt: skip
    assert others.version != source.version


def test_without_lists_it_is_unavailable_with_the_remedy(root: Path) -> None:
    data = Dataset(open_source("chexpert", SourceOptions(root=root)))
    for protocol in (IMAGE, TEXT):
        with pytest.raises(Unavailable, match=r"has 0 and 0; clone github\.com/yuhaozhang/convirt, .* --split FOLDER"):
            Retrieval().check(data, protocol)


def test_lists_that_ask_for_no_class_of_the_set_or_lack_a_file_are_refused(root: Path, lists: Path) -> None:
    options = SourceOptions(root=root)
    texts = lists / "text-retrieval" / "query.csv"
    texts.write_text("Variable,Text\nGout,The toe is red.\n")
    with pytest.raises(UserError, match="asks for 'Gout', which is no class of chexpert"):
        open_source("chexpert", options, str(lists))
    texts.write_text("Variable\nEdema\n")
    with pytest.raises(UserError, match="lacks the columns text"):
        open_source("chexpert", options, str(lists))
    texts.unlink()
    with pytest.raises(UserError, match=r"query\.csv: it cannot be read"):
        open_source("chexpert", options, str(lists))


@pytest.mark.parametrize("with_lists", [True, False])
def test_it_runs_from_the_command_line_for_images_without_text_too(
    with_lists: bool, root: Path, lists: Path, command: Command
) -> None:
    words = ["--data-root", str(root), "--protocol", "retrieval-8x200-image,retrieval-8x200-text"]
    words += ["--split", str(lists)] if with_lists else []
    given = (*(item for item in TINY if not item.startswith(("text", "max_tokens", "embed_dim"))), *TRAINED)
    for method, pairs in (("random", TINY), ("simclr", given)):
        command.run(method, "retrieval", *words, settings=pairs, data="chexpert")
    statuses = {(result.spec.method, result.spec.protocol): result for result in command.results()}
    found = {key: result.status for key, result in statuses.items()}
    with_images = "ok" if with_lists else "unavailable"
    assert found == {
        ("random", IMAGE.name): with_images, ("random", TEXT.name): with_images,
        ("simclr", IMAGE.name): with_images, ("simclr", TEXT.name): "unsupported",
    }, command.error  # fmt: skip
    if with_lists:
        result = statuses["random", TEXT.name]
        assert (result.notes["queries"], result.n_used) == (8, 8)
        assert "precision@10/Edema" in result.metrics
        assert {row.title for row in command.results("reference")} == {"random ranking"}


def test_queries_and_candidates_of_the_protocol_are_those_of_its_classes(root: Path, lists: Path) -> None:
    data = Dataset(open_source("chexpert", SourceOptions(root=root), str(lists)))
    one = replace(IMAGE, settings=tuple(sorted({**dict(IMAGE.settings), "classes": CLASSES[0]}.items())))
    narrow = query_match.of_protocol(data, one)
    assert len(query_match._queries(narrow, one, narrow.rows("test", one))) == 1
