"""The clauses of the contract on what a method learns by: its loss and gradients in every stage, and odd reports."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from benchmark import repro
from benchmark.clauses import MISTAKES, REPORTS, SIXTY, Broken, Subject, first, require
from benchmark.schedule import Stage, stages
from benchmark.types import Batch, Step

USUAL = ("Heart size is normal.", *REPORTS[2:], "Mild edema.")
LABELS = ((0.0, 1.0, float("nan")), (1.0, 0.0, 0.0), (float("nan"),) * 3, (0.0, 0.0, 1.0))  # of as many images, in turn
AWKWARD: dict[str, tuple[str, ...]] = {
    "no sentence in any report": ("", "   ", "\n \n", ""),
    "one sentence in each": ("No effusion.", "The heart is enlarged.", "Clear lungs.", "Mild edema."),
    "60 sentences beside one and none": (SIXTY, "Clear lungs.", "", "..."),
    "punctuation alone": ("...", "?! ;", "- , .", "/ ( ) :"),
    "all reports equal": (REPORTS[0],) * 4,
}
# Of the steps that are taken in each stage, from its first to its last. Several, because what begins at zero keeps what lies
# behind it from learning at once; late ones too, because some methods keep a part frozen for some epochs.
EPOCHS = (0, 1, 1000)
RATE = 1e-3
MOST_NAMES = 12  # in a message


def loss(subject: Subject) -> str:
    """Finite scalars with a total in every stage, the same from the same weights and the same seed."""
    found = {}
    for stage in stages(subject.recipe):
        with _training(subject.method):
            terms = _step(subject, subject.method, stage, USUAL)
        with _training(subject.method):
            again = _step(subject, subject.method, stage, USUAL)
        require(
            terms == again,
            f"the loss differs between two steps with the same seed{_in(subject, stage)}; "
            "draw from the global torch generator only",
        )
        found[stage.number] = "; ".join(", ".join(f"{name} {value:.3f}" for name, value in item.items()) for item in terms)
    several = len(found) > 1
    return "; ".join(f"stage {number}: {text}" if several else text for number, text in found.items())


def gradients(subject: Subject) -> str:
    """Every parameter that requires a gradient gets one that is not zero, in one of a few steps over the stages.

    Those that a method declares in `untrained: ClassVar[tuple[str, ...]]`, prefixes of names, need none.
    """
    declared = _untrained(subject.method_class)
    method = subject.built(0).train()
    trained = {name: item for name, item in method.named_parameters() if item.requires_grad}
    require(bool(trained), "no parameter requires a gradient")
    missed, done = dict.fromkeys(name for name in trained if not name.startswith(declared)), 0
    needed = len(missed)
    for stage in stages(subject.recipe):
        optimizer = torch.optim.AdamW(trained.values(), lr=RATE)
        for turn in range(len(EPOCHS)):
            optimizer.zero_grad(set_to_none=True)
            _step(subject, method, stage, USUAL, turn, backward=True)
            for name in [name for name in missed if _any(trained[name].grad)]:
                del missed[name]
            optimizer.step()
            done += 1
    require(
        not missed,
        f"no gradient reaches {len(missed)} parameters in {done} steps: {_names(list(missed))}; use them, freeze them "
        "in build, or declare their prefix in `untrained` and say why in the documentation",
    )
    others = len(trained) - needed
    return f"reach all {needed} trained tensors" + (f"; {others} declared untrained" if others else "")


def awkward_reports(subject: Subject) -> str:
    """Reports without sentences or words, of one sentence, of 60, or all the same: loss and gradients stay finite."""
    for stage in stages(subject.recipe):
        for what, texts in AWKWARD.items():
            with _training(subject.method):
                try:
                    _step(subject, subject.method, stage, texts, backward=True)
                except Broken as broken:
                    raise Broken(f"with {what}: {broken}") from broken
                except MISTAKES as error:
                    raise Broken(f"with {what}{_in(subject, stage)}: {type(error).__name__}: {error}") from error
    return ", ".join(AWKWARD)


@contextmanager
def _training(method: Any) -> Iterator[None]:
    """In training mode for a moment; statistics, queues and other states are then as before, and gradients gone."""
    kept = {name: item.detach().clone() for name, item in method.state_dict().items()}
    method.train()
    try:
        yield
    finally:
        method.eval()
        method.zero_grad(set_to_none=True)
        method.load_state_dict(kept)


def _step(
    subject: Subject, method: Any, stage: Stage, texts: Sequence[str], turn: int = 0, backward: bool = False
) -> list[dict[str, float]]:
    """The terms of one step by pass. Leaves gradients where backward was asked for. Raises Broken."""
    names, where = tuple(f"row {index}" for index in range(len(texts))), _in(subject, stage)
    labels = torch.tensor([LABELS[index % len(LABELS)] for index in range(len(texts))])
    batch = Batch(names, names, subject.images(len(texts)), tuple(texts), {"labels": labels})
    index = stage.start + turn * max(0, stage.end - 1 - stage.start) // (len(EPOCHS) - 1)
    step = Step(index, EPOCHS[turn], max(1, subject.recipe.steps), stage.number)
    found = []
    with repro.seeded("contract step", turn):
        for terms in method.loss(batch, step):
            found.append(_checked(terms, where))
            if backward:
                terms["total"].backward()
    require(bool(found), f"loss yields nothing{where}; yield a mapping with total")
    grads = [(name, item.grad) for name, item in method.named_parameters() if item.grad is not None]
    bad = [name for name, grad in grads if not bool(torch.isfinite(grad).all())]
    require(not bad, f"the gradient of {len(bad)} parameters is not finite{where}, first {first(bad)}")
    return found


def _checked(terms: Mapping[str, Tensor], where: str) -> dict[str, float]:
    require("total" in terms, f"loss yields {', '.join(terms) or 'nothing'}{where}; one term must be named total")
    odd = [name for name, item in terms.items() if item.ndim or not bool(torch.isfinite(item))]
    require(not odd, f"{', '.join(odd)} of the loss is not one finite number{where}")
    return {name: float(item.detach()) for name, item in terms.items()}


def _untrained(method_class: Any) -> tuple[str, ...]:
    found = getattr(method_class, "untrained", ())
    good = isinstance(found, tuple) and all(isinstance(name, str) and name for name in found)
    require(good, f"untrained = {found!r} must be a tuple of prefixes of parameter names")
    return tuple(found)


def _any(grad: Tensor | None) -> bool:
    return grad is not None and bool(grad.any())


def _in(subject: Subject, stage: Stage) -> str:
    """Where it happened, as the end of a sentence; nothing where there is one stage only."""
    return f" in stage {stage.number}" if subject.recipe.stages else ""


def _names(names: list[str]) -> str:
    rest = len(names) - MOST_NAMES
    return ", ".join(names[:MOST_NAMES]) + (f" and {rest} more" if rest > 0 else "")
