"""Positive against negative prompts for some of a set's classes, and how much the templates differ."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from benchmark.data.dataset import Dataset
from benchmark.errors import Unsupported
from tasks.prompts import FIVE, PROMPT_SETS
from tasks.published.zeroshot import PROTOCOLS
from tasks.zeroshot import ZeroShot
from tests.five import FiveSource
from tests.test_multiclass import BenchOf, values
from tests.toy import ToySource

FINDINGS = next(protocol for protocol in PROTOCOLS if protocol.name == "zeroshot-chexpert-5")
ALL = ZeroShot().protocols("quick")[0]


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> BenchOf:
    return BenchOf(tmp_path_factory.mktemp("spread"), "random")


@pytest.fixture(scope="module")
def data() -> Dataset:
    return Dataset(FiveSource())


def test_five_findings_are_five_columns_of_all(bench: BenchOf, data: Dataset) -> None:
    five, every = (bench.run(ZeroShot(), protocol, data) for protocol in (FINDINGS, ALL))
    columns = [data.classes.index(name) for name in FIVE]
    assert five.names["classes"] == FIVE
    for name in ("scores", "predicted", "targets"):
        assert np.allclose(five.arrays[name], every.arrays[name][:, columns], atol=1e-6, equal_nan=True)
    assert "template_scores" not in every.arrays
    assert "auroc_prompt_spread" not in values(every, ALL)
    rows = ZeroShot().references(five, data, FINDINGS)
    assert {row.arrays["predicted"].shape for row in rows.values()} == {five.arrays["predicted"].shape}


def test_the_spread_is_that_of_each_template_alone(bench: BenchOf, data: Dataset) -> None:
    found = bench.run(ZeroShot(), FINDINGS, data)
    images, truth = bench.features(data, data.rows("test")), found.arrays["targets"]
    sides = [PROMPT_SETS[FINDINGS.setting("prompts")].prompts(name) for name in FIVE]
    areas = []
    for place in range(len(sides[0][0])):
        text = np.stack([bench.texts([yes[place]])[0] - bench.texts([no[place]])[0] for yes, no in sides])
        areas.append(np.mean([roc_auc_score(truth[:, k], images @ text[k]) for k in range(5)]))
    assert values(found, FINDINGS)["auroc_prompt_spread"] == pytest.approx(np.std(areas, ddof=1), abs=1e-6)


def test_images_are_encoded_once_for_all_templates(bench: BenchOf, data: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    seen, own = [], type(bench.method).encode_image

    def spy(self: Any, images: Any) -> Any:
        seen.append(len(images))
        return own(self, images)

    monkeypatch.setattr(type(bench.method), "encode_image", spy)
    bench.run(ZeroShot(), FINDINGS, data)
    assert sum(seen) == len(data.rows("val")) + len(data.rows("test"))


def test_findings_that_a_set_lacks_are_said_before_anything_runs() -> None:
    with pytest.raises(Unsupported, match=r"zeroshot-chexpert-5 needs the classes .*, and toy lacks Atelectasis"):
        ZeroShot().check(Dataset(ToySource(20)), FINDINGS)
