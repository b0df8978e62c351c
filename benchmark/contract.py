"""What every method must keep, checked on a few generated images and reports: for its author, before any run."""

from __future__ import annotations

import typing
from dataclasses import dataclass, fields
from typing import Any

import torch
from safetensors.torch import load, save
from tokenizers import Tokenizer
from torch import Tensor, nn

from benchmark import clauses, training_clauses, weights
from benchmark.clauses import MISTAKES, REPORTS, Broken, Clause, Subject, first, require
from benchmark.data.text import train_tokenizer
from benchmark.errors import Unavailable, UserError
from benchmark.types import CAPABILITIES, InputSpec, MethodCard, Recipe, capabilities, reads_reports


@dataclass(frozen=True, slots=True)
class Finding:
    """One clause of the contract: its name, whether it is kept, and what was seen or what is wrong."""

    name: str
    ok: bool
    message: str


def check(method_class: Any, preset: str = "quick", tokenizer: Tokenizer | None = None, config: Any = None) -> list[Finding]:
    """Goes through the contract, clause by clause; what a method has no capability for is not asked of it.

    Args:
        method_class: a class as `benchmark.types.Method` describes it. preset: of its configuration.
        tokenizer: for methods that read text; None trains one on the reports used here.
        config: instead of the preset's.

    Returns:
        Findings in order; those after the first that makes others impossible are left out.

    Raises:
        Unavailable: its weights cannot be had here, so that nothing can be said.
    """
    subject = Subject(method_class, preset, tokenizer or train_tokenizer(REPORTS, 300), config)
    findings = [_find(name, clause, subject) for name, clause in (("card", _card), ("configuration", _configuration))]
    findings.append(_find("build", _build, subject))
    if not findings[-1].ok:
        return findings
    return findings + [_find(name, clause, subject) for name, clause in _clauses(subject)]


def _clauses(subject: Subject) -> list[tuple[str, Clause]]:
    has = capabilities(subject.method)
    chosen: list[tuple[str, Clause]] = [
        ("input", _input),
        ("image features", clauses.image_features),
        ("image features repeat", clauses.repeat),
        ("images do not touch each other", clauses.images_alone),
        ("similarity", clauses.similarity),
    ]
    reads = reads_reports(subject.method)
    if reads:
        chosen.append(("tokens", clauses.tokens))
    if "text" in has:
        chosen += [("text features", clauses.text_features), ("texts do not touch each other", clauses.texts_alone)]
    if reads:
        chosen.append(("long text", clauses.long_text))
    if "dense" in has:
        chosen += [("feature maps", clauses.maps), ("feature maps at other sizes", clauses.other_sizes)]
    if "trainable" in has:
        chosen += [("loss", training_clauses.loss), ("gradients", training_clauses.gradients)]
        if reads:
            chosen.append(("awkward reports", training_clauses.awkward_reports))
    return [*chosen, ("weights in a file", _weights)]


def _find(name: str, clause: Clause, subject: Subject) -> Finding:
    try:
        return Finding(name, True, clause(subject))
    except Unavailable:
        raise
    except Broken as broken:
        return Finding(name, False, str(broken))
    except MISTAKES as error:
        return Finding(name, False, f"{type(error).__name__}: {error}" if str(error) else type(error).__name__)


def _card(subject: Subject) -> str:
    method = subject.method_class
    name, version = getattr(method, "name", None), getattr(method, "version", None)
    card = getattr(method, "card", None)
    require(isinstance(name, str) and bool(name), "set name, a text, on the class")
    require(type(version) is int and version > 0, "set version, a whole number from 1 on, on the class")
    if not isinstance(card, MethodCard) or not card.title:
        raise Broken("set card = MethodCard(title=...) on the class")
    return f"{card.title}, version {version}"


def _configuration(subject: Subject) -> str:
    config, recipe = subject.method_class.preset(subject.preset)
    config = config if subject.config is None else subject.config
    frozen = getattr(getattr(config, "__dataclass_params__", None), "frozen", False)
    require(frozen and not isinstance(config, type), "preset must give a frozen dataclass first")
    require(isinstance(recipe, Recipe), "preset must give a benchmark.types.Recipe second")
    odd = [item.name for item in fields(config) if not isinstance(getattr(config, item.name), str | int | float | bool | None)]
    require(not odd, f"configuration fields must be scalars, which --set and JSON can write: {', '.join(odd)} are not")
    hints = typing.get_type_hints(type(config))
    odd = [name for name in (item.name for item in fields(config)) if not _settable(hints[name])]
    require(not odd, f"annotate {', '.join(odd)} with str, int, float, bool or a Literal, so that --set can read a value")
    try:
        subject.method_class.preset("no-such-preset")
    except UserError:
        return f"{len(fields(config))} fields, {recipe.steps} steps of {recipe.batch_size}"
    raise Broken("preset must raise benchmark.errors.UserError for a name it does not know")


def _settable(hint: Any) -> bool:
    return hint in (str, int, float, bool) or typing.get_origin(hint) is typing.Literal


def _build(subject: Subject) -> str:
    subject.method = subject.built(0)
    require(isinstance(subject.method, nn.Module), "build must return a torch.nn.Module")
    state, again = subject.method.state_dict(), subject.built(0).state_dict()
    other = [name for name, value in state.items() if name not in again or not torch.equal(value, again[name])]
    require(not other, f"two builds from the same seed differ, first {first(other)}; draw from the global torch generator only")
    has = capabilities(subject.method)
    _require_members(subject.method, has)
    steps = subject.recipe.steps
    require("trainable" in has or not steps, f"the recipe has {steps} steps, and there is no loss; write one, or set steps=0")
    require(not reads_reports(subject.method) or isinstance(getattr(subject.method, "tokenizer", None), Tokenizer),
             "a method that reads text keeps its tokenizer in `tokenizer`, which is saved beside its weights")  # fmt: skip
    count = sum(parameter.numel() for parameter in subject.method.parameters())
    return f"{count:,} parameters; capabilities: {', '.join(sorted(has)) or 'images only'}"


def _require_members(method: Any, has: frozenset[str]) -> None:
    """Raises Broken where a capability is declared by a member that cannot be called or lacks the one beside it."""
    odd = [CAPABILITIES[name] for name in sorted(has) if not callable(getattr(method, CAPABILITIES[name]))]
    require(not odd, f"{', '.join(odd)} cannot be called; a method without the capability has no such member at all")
    require("text" not in has or hasattr(method, "prepare_text"), "encode_text needs prepare_text beside it")
    require("dense" not in has or hasattr(method, "feature_info"), "feature_maps needs feature_info beside it")


def _input(subject: Subject) -> str:
    spec = subject.method.input
    if not isinstance(spec, InputSpec):
        raise Broken("input must be a benchmark.types.InputSpec")
    require(type(spec.size) is int and spec.size > 0, f"input.size {spec.size!r} is not a positive whole number")
    require(spec.channels in (1, 3), f"input.channels {spec.channels} must be 1 or 3")
    fits = {len(spec.mean), len(spec.std)} <= {1, spec.channels}
    require(fits, f"input.mean {spec.mean} and input.std {spec.std} need one value, or one for each channel")
    require(all(value > 0 for value in spec.std), f"input.std {spec.std} must be above 0")
    require(spec.resize in ("pad", "stretch"), f"input.resize {spec.resize!r} is neither pad nor stretch")
    known = spec.interpolation in ("bilinear", "bicubic")
    require(known, f"input.interpolation {spec.interpolation!r} is neither bilinear nor bicubic")
    return f"{spec.channels} x {spec.size} x {spec.size}, {spec.resize}"


def _weights(subject: Subject) -> str:
    """The state goes through a file's bytes into a method of another start."""
    state = {name: item.detach().contiguous().clone() for name, item in subject.method.state_dict().items()}
    data = save(state)
    expected = _outputs(subject)
    subject.method = subject.built(1)
    weights.apply(subject.method, load(data), "the saved state")
    subject.method.eval()
    same = all(torch.equal(one, two) for one, two in zip(expected, _outputs(subject), strict=True))
    require(same, "saved and loaded weights give other features: something that matters is no parameter and no buffer")
    return f"{len(data) / 1024**2:.1f} MiB, features equal bit for bit"


def _outputs(subject: Subject) -> list[Tensor]:
    found = [subject.encode_images(subject.images()).pooled]
    return [*found, subject.encode_texts(REPORTS).pooled] if "text" in capabilities(subject.method) else found
