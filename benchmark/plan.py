"""What a command line asks for, as cells: each knows its key before anything runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf, isfinite
from pathlib import Path
from typing import Any

from benchmark.checkpoints import checkpoint_key, fetched_weights, of_checkpoint, weight_files
from benchmark.data.dataset import Dataset
from benchmark.data.opening import check_split, open_source
from benchmark.data.sources import SourceOptions
from benchmark.errors import Unavailable, Unsupported, UserError
from benchmark.hub import vocabulary_key
from benchmark.options import RunOptions, override, require_used, setting_names
from benchmark.published import Layout
from benchmark.registry import Registry, unknown
from benchmark.schedule import falls
from benchmark.training.batches import training_rows
from benchmark.types import (
    PRESETS,
    PretrainSpec,
    Protocol,
    Recipe,
    RunSpec,
    Status,
    capabilities,
    digest,
    plain,
    reads_reports,
)

CATALOGUE = (*PRESETS, "published")  # what `Task.protocols` is asked for; "published" ones run only when they are named


@dataclass(frozen=True, slots=True, kw_only=True)
class Entrant:
    """A method as it will compete on one data set: configuration, seed, and where its weights come from.

    corpus: the data set whose training rows pretrain it and, without `vocabulary`, whose reports make one.
    """

    name: str
    method: Any  # the class
    config: Any
    recipe: Recipe
    title: str
    seed: int
    corpus: Dataset
    vocabulary: str = ""  # as RunOptions
    weights: str  # as RunSpec.weights
    pretraining: PretrainSpec | None = None
    checkpoint: Path | None = None
    layout: Layout | None = None  # of a published checkpoint


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One score to be made."""

    entrant: Entrant
    task: Any
    protocol: Protocol
    spec: RunSpec


def chosen(registry: Registry[Any], names: Sequence[str]) -> tuple[str, ...]:
    """The names, "all" expanded, each once. Raises UserError for an unknown one."""
    found: dict[str, None] = {}
    for name in names:
        for item in registry if name == "all" else (name,):
            registry.origin(item)
            found[item] = None
    return tuple(found)


def open_dataset(text: str, options: RunOptions) -> Dataset:
    """The checked data set of one `--data` value, NAME or NAME:LOCATION. Raises UserError."""
    check_split(options.data, options.split)
    source_options = SourceOptions(root=options.data_root, preset=options.preset, where=options.where)
    data = Dataset(open_source(text, source_options, options.split, options.label_policy))
    data.notes |= {"label_policy": options.label_policy} if options.label_policy else {}
    return data


def open_corpus(options: RunOptions) -> Dataset | None:
    """The data set of `--pretrain-data`, as it splits itself; None where each data set is its own. Raises UserError.

    `--where`, `--split` and `--label-policy` are of the data sets that are scored.
    """
    if not options.pretrain_data:
        return None
    if options.checkpoint is not None:
        raise UserError("--checkpoint brings trained weights and --pretrain-data trains them; leave one of the two out")
    whole = replace(options, data=(options.pretrain_data,), where=(), split="", label_policy="")
    return open_dataset(options.pretrain_data, whole)


def entrants(options: RunOptions, methods: Registry[Any], data: Dataset, corpus: Dataset | None = None) -> tuple[Entrant, ...]:
    """Every method and seed that competes on a data set.

    Args:
        corpus: pretrains them where it is given, else the data set itself does.

    Raises:
        UserError: an unknown method, preset or setting, or a checkpoint for several methods.
    """
    corpus = corpus or data
    names = chosen(methods, options.methods)
    if options.checkpoint is not None and len(names) != 1:
        raise UserError(f"--checkpoint belongs to one method, and {len(names)} are named; name one by --method")
    found: list[Entrant] = []
    used: set[str] = set()
    known: list[str] = []
    for name in names:
        method, layout = methods.load(name), None
        config, recipe = method.preset(options.preset)
        if options.checkpoint is not None:
            method, layout, config = of_checkpoint(method, options.checkpoint, name, config, options.preset)
        known += setting_names(config, recipe)
        config, recipe, taken = override(config, recipe, options.settings, name)
        _check_values(config, recipe)
        used |= taken
        changed = [f"{key}={getattr(config, key, getattr(recipe, key, None))}" for key in sorted(taken)]
        changed += [f"on {corpus.name}"] if corpus is not data and "trainable" in capabilities(method) and recipe.steps else []
        title = method.card.title + (f" [{', '.join(changed)}]" if changed else "")
        for seed in options.seeds:
            found.append(
                _entrant(
                    options, corpus, method, config, recipe, {"name": name, "title": title, "seed": seed, "layout": layout}
                )
            )
    require_used(options.settings, frozenset(used), known, names)
    return tuple(found)


def _check_values(config: Any, recipe: Recipe) -> None:
    """Raises UserError for a number that no training can use, before anything runs."""
    for name, value in {**plain(config), **plain(recipe)}.items():
        if isinstance(value, float) and not isfinite(value):
            raise UserError(f"{name}={value} is not a finite number; give another by --set {name}=NUMBER")
    limits = {
        "steps": (0, inf), "batch_size": (1, inf), "learning_rate": (0, inf), "weight_decay": (0, inf), "beta2": (0, 0.9999999),
        "warmup": (0, 1), "clip_norm": (0, inf), "augment": (0, 2),
        "micro_batch": (0, inf), "average": (0, 0.9999999), "layer_decay": (0.01, 1), "buckets": (0, inf),
    }  # fmt: skip
    falls(recipe.schedule)
    for name, (low, high) in limits.items():
        if not low <= getattr(recipe, name) <= high:
            raise UserError(
                f"{name}={getattr(recipe, name)} is not {f'from {low} to {high}' if high < inf else f'{low} or more'}"
            )


def _entrant(
    options: RunOptions, corpus: Dataset, method: Any, config: Any, recipe: Recipe, naming: Mapping[str, Any]
) -> Entrant:
    spec, words = None, vocabulary_key(options.vocabulary) if reads_reports(method) else ""
    if words and (options.checkpoint is not None or getattr(config, "text_weights", "none") not in ("", "none")):
        raise UserError(f"{naming['name']} reads text by the vocabulary of its weights; leave --vocabulary out")
    inputs = {"weight_files": weight_files(config), "vocabulary": words}
    if options.checkpoint is not None:
        source = checkpoint_key(options.checkpoint, published=naming["layout"] is not None)
    elif "trainable" in capabilities(method) and recipe.steps > 0:
        rows = training_rows(corpus, reads_reports(method))
        spec = PretrainSpec(
            method=naming["name"],
            method_version=method.version,
            config=plain(config) | {name: value for name, value in inputs.items() if value},
            recipe=recipe.keyed,
            dataset=corpus.name,
            dataset_version=corpus.version,
            split=digest([corpus.splits["train"], [record.uid for record in rows]]),
            seed=naming["seed"],
        )
        source = spec.key
    else:
        source = weight_files(config) or fetched_weights(config) or "seed"
        if words:
            source += f"+words:{words}"
        elif options.pretrain_data and reads_reports(method):  # its vocabulary is learned from other reports
            source += f"+words:{digest([corpus.name, corpus.version, corpus.splits['train']], 8)}"
    return Entrant(
        method=method,
        config=config,
        recipe=recipe,
        corpus=corpus,
        vocabulary=options.vocabulary,
        weights=source,
        pretraining=spec,
        checkpoint=options.checkpoint,
        **naming,
    )


def cells(options: RunOptions, tasks: Registry[Any], data: Dataset, competing: Sequence[Entrant]) -> tuple[Cell, ...]:
    """Every score to be made on a data set, method by method. Raises UserError for an unknown task or protocol."""
    families = [tasks.load(name)() for name in chosen(tasks, options.tasks)]
    literals = [(task, protocol) for task in families for protocol in task.protocols(options.preset)]
    if options.protocols:
        named = {protocol.name: (task, protocol) for task in families for protocol in catalogue(task)}
        missing = next((name for name in options.protocols if name not in named), None)
        if missing is not None:
            raise unknown(f"protocol of --task {','.join(options.tasks)}", missing, list(named))
        literals = [named[name] for name in dict.fromkeys(options.protocols)]
    found = []
    for entrant in competing:
        for task, protocol in literals:
            fractions = options.labels if options.labels and protocol.fractions != (1.0,) else protocol.fractions
            for fraction in fractions:
                for eval_seed in options.eval_seeds:
                    spec = _spec(options, data, entrant, task, protocol, fraction, eval_seed)
                    found.append(Cell(entrant=entrant, task=task, protocol=protocol, spec=spec))
    return tuple(found)


def catalogue(task: Any) -> tuple[Protocol, ...]:
    """Every protocol of a family, whatever preset runs it, each once."""
    return tuple({protocol.name: protocol for preset in CATALOGUE for protocol in task.protocols(preset)}.values())


def _spec(  # noqa: PLR0913  (the coordinates of a cell)
    options: RunOptions, data: Dataset, entrant: Entrant, task: Any, protocol: Protocol, fraction: float, eval_seed: int
) -> RunSpec:
    return RunSpec(
        method=entrant.name,
        method_version=entrant.method.version,
        config=plain(entrant.config),
        weights=entrant.weights,
        task=task.name,
        task_version=task.version,
        protocol=protocol.name,
        protocol_hash=protocol.hash,
        dataset=data.name,
        dataset_version=data.version,
        splits=data.splits,
        label_fraction=fraction,
        seed=entrant.seed,
        eval_seed=eval_seed,
        precision=options.precision,
    )


def refusal(cell: Cell, data: Dataset) -> tuple[Status, str] | None:
    """Why a cell cannot be run at all, or None: a capability or data that it lacks, or that a user must bring.

    A family's `needs_of(protocol)`, where it has that, are the capabilities of that protocol.
    """
    needs = cell.task.needs_of(cell.protocol) if hasattr(cell.task, "needs_of") else cell.task.needs
    lacking = sorted(needs - capabilities(cell.entrant.method))
    if lacking:
        reason = f"{cell.entrant.name} has no {' and no '.join(lacking)} capability, which {cell.protocol.name} needs"
        return "unsupported", reason
    try:
        cell.task.check(data, cell.protocol)
    except Unsupported as error:
        return "unsupported", str(error)
    except Unavailable as error:
        return "unavailable", str(error)
    return None


def reference_spec(spec: RunSpec, name: str) -> RunSpec:
    """The key of a reference row depends on the rows and the protocol alone, not on the method beside it."""
    return replace(spec, method=f"reference: {name}", method_version=1, config={}, weights="none", seed=0, precision="fp64")
