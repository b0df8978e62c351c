"""Two processes at half the batch against one: terms, gradients and statistics; sizes that do not divide; a lost process."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmark import weights
from tests.two_processes import gradients, gradients_of, together

SMALL_PRIOR = ("pool_heads=2", "decoder_heads=2", "channel_dropout=0", "prototypes=16")
STEPS = (0, 3, 7)  # of 8: PRIOR has three stages


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def assert_equal(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], tolerance: float = 1e-5) -> None:
    assert found.keys() == expected.keys()
    wrong = {
        name: float((item - found[name]).abs().max())
        for name, item in expected.items()
        if not torch.allclose(found[name].double(), item.double(), atol=tolerance * max(1.0, float(item.abs().max())), rtol=0)
    }
    assert wrong == {}


CASES = {
    f"{name} {' '.join(settings)}".strip(): (name, settings)
    for name, settings in (
        ("mcr", ()), ("mcr", ("stream=dual", "backward=sequential")), ("mcr", ("micro_batch=3",)), ("clip", ()),
        ("clip", ("image_encoder=resnet",)), ("prior", SMALL_PRIOR), ("prior", (*SMALL_PRIOR, "image_encoder=resnet")),
        ("convirt", ()), ("medclip", ()), ("cxr_clip", ()), ("mgca", ()), ("simclr", ()), ("mae", ()), ("mrm", ()),
        ("mrm", ("report_labels=real",)), ("gloria", ("local_weight=0",)),
    )
}  # fmt: skip


@pytest.fixture(scope="module")
def halves(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, torch.Tensor]]:
    """Of each case what two processes find together."""
    folder = tmp_path_factory.mktemp("halves")
    path = folder / "found.pt"
    assert together(gradients, 2, folder, str(cache), CASES, STEPS, str(path)) == [0, 0]
    found: dict[str, dict[str, torch.Tensor]] = weights.load_state(path)  # type: ignore[assignment]
    return found


@pytest.mark.parametrize("case", CASES)
def test_two_processes_at_half_the_batch_are_one(case: str, halves: dict[str, dict[str, torch.Tensor]], cache: Path) -> None:
    found, expected = halves[case], gradients_of(cache, *CASES[case], STEPS)
    if case.startswith("gloria"):  # its local loss, of weight 0 here, has the negatives of a process
        found, expected = ({key: item for key, item in part.items() if "term local" not in key} for part in (found, expected))
    assert_equal(found, expected)
