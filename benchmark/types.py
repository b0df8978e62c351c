"""The central types: what flows from a source file to a leaderboard row.

    source files -> Record -> Batch -> Features -> Predictions -> Metric -> RunResult -> row

Letters of shapes: B batch, N rows, K classes, D embedding, P patches, T tokens, S sentences, M masks, R draws, H W pixels.
Nothing here imports torch at run time, so that the leaderboards can read results without it.
"""

from __future__ import annotations

import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from hashlib import sha256
from json import dumps
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import numpy as np

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray
    from tokenizers import Tokenizer
    from torch import Tensor

    from benchmark.context import Context
    from benchmark.data.dataset import Dataset

Scalar = str | int | float | bool | None
Status = Literal["ok", "failed", "unsupported", "unavailable"]
SPLITS = ("train", "val", "test")
PRESETS = ("quick", "small", "paper")
NOT_FRONTAL = ("LATERAL", "OTHER")  # views that a protocol of frontal images leaves out


def canonical_json(value: object) -> str:
    """The one JSON text of a value: sorted keys, no spaces, no NaN.

    Raises:
        ValueError: a number is not finite.
    """
    return dumps(plain(value), sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=False)


def plain(value: object) -> Any:
    """Dataclasses, mappings and tuples as dicts and lists that JSON can write."""
    if is_dataclass(value) and not isinstance(value, type):
        return {item.name: plain(getattr(value, item.name)) for item in fields(value)}
    if isinstance(value, Mapping):
        return {str(name): plain(item) for name, item in value.items()}
    if isinstance(value, tuple | list):
        return [plain(item) for item in value]
    return value.item() if isinstance(value, np.generic) else value


def digest(value: object, length: int = 16) -> str:
    """The first hexadecimal digits of the sha256 of a value's canonical JSON."""
    return sha256(canonical_json(value).encode()).hexdigest()[:length]


# ---------------------------------------------------------------------------------------------- data


@dataclass(frozen=True, slots=True)
class Box:
    """A box in pixels of the original image, left-top and right-bottom corners, x1 > x0 and y1 > y0."""

    label: str
    x0: float
    y0: float
    x1: float
    y1: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One image as its source states it; no pixels.

    Sentences are not stored: `benchmark.data.text.split_sentences` derives them from the sections.
    """

    uid: str  # unique in the source, never reused
    patient: str  # the unit of splitting and of resampling
    study: str  # the unit of image-report pairs
    split: str  # "train" | "val" | "test"
    image: str  # POSIX path inside the source's root, or a generator's index
    view: str = ""  # "PA" | "AP" | "FRONTAL" | "LATERAL" | "OTHER" none of these, by its source | "" not stated
    sections: Mapping[str, str] = field(default_factory=dict)  # findings, impression, report, ...
    labels: tuple[float, ...] = ()  # (K,) as Source.classes: 1, 0, nan = unknown
    boxes: tuple[Box, ...] | None = None  # None: not annotated; (): annotated, and none there
    masks: Mapping[str, str] = field(default_factory=dict)  # mask name -> path or generator's index
    age: float | None = None
    sex: str = ""  # "F" | "M" | ""
    attributes: Mapping[str, str] = field(default_factory=dict)  # further columns, for --where and subgroups


@typing.runtime_checkable
class Source(typing.Protocol):
    """A data set as it lies on a disk, or a generator of one. Reads pixels; checks nothing about splits (Dataset does)."""

    name: str  # "phantom", "csv:NAME"
    version: str  # changes whenever pixels, labels, texts or splits change
    classes: tuple[str, ...]  # K label names
    mask_names: tuple[str, ...]  # names a Record.masks may hold
    box_classes: tuple[str, ...]  # labels a Box may have
    flags: tuple[str, ...]  # shown on every row of this set: ("phantom",), ("development",)
    records: tuple[Record, ...]

    def image(self, record: Record) -> NDArray[np.uint8]:
        """(H, W) uint8. Raises ImageError."""
        ...

    def mask(self, record: Record, name: str) -> NDArray[np.uint8]:
        """(H, W) uint8 of the image's size: 0 background, 1 structure, 255 ignore. Raises ImageError."""
        ...


@dataclass(frozen=True, slots=True)
class InputSpec:
    """What a method wants its pixels to be. The core does everything to pixels; a method only encodes."""

    size: int  # height and width in pixels
    channels: int = 1
    mean: tuple[float, ...] = (0.5,)
    std: tuple[float, ...] = (0.25,)
    resize: Literal["pad", "stretch"] = "pad"  # pad: aspect ratio kept, centered on black
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows on their way into a pretraining loss.

    images: (B, C, h, w) float32, resized, augmented and normalised as the method's InputSpec says.
    texts: B reports. targets: "labels" (B, K) float32 with nan = unknown, where there are labels.
    """

    uids: tuple[str, ...]
    patients: tuple[str, ...]
    images: Tensor
    texts: tuple[str, ...]
    targets: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TextBatch:
    """Tokens of B texts.

    ids: (B, T) int64. mask: (B, T) bool, True for every token but padding (special tokens included).
    special: (B, T) bool, True at [CLS], [SEP], [PAD]. sentences, words: (B, T) int64, index of the sentence or word that
    the token belongs to within its text, -1 at special tokens. truncated: texts of this batch that lost tokens.
    """

    ids: Tensor
    mask: Tensor
    special: Tensor
    sentences: Tensor
    words: Tensor
    truncated: int = 0

    def to(self, device: torch.device) -> TextBatch:
        """The same tokens on a device."""
        ids, mask, special = self.ids.to(device), self.mask.to(device), self.special.to(device)
        return TextBatch(ids, mask, special, self.sentences.to(device), self.words.to(device), self.truncated)


@dataclass(frozen=True, slots=True)
class Features:
    """What an encoder gives, for images and texts alike.

    pooled: (N, D) float32, L2-normalised. tokens: (N, P|T, D) or None. mask: (N, P|T) bool, True = real, or None.
    """

    pooled: Tensor
    tokens: Tensor | None = None
    mask: Tensor | None = None


@dataclass(frozen=True, slots=True)
class Step:
    """Where a training loop stands. The global random state is seeded from (seed, index) before each step."""

    index: int
    epoch: int
    n_steps: int
    stage: int = 1  # of Recipe.stages, from 1 on


# ------------------------------------------------------------------------------------------- methods


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How a method is pretrained; the same loop for all. Rates are for the global batch as given."""

    steps: int = 0  # 0: the method is not trained
    batch_size: int = 64
    learning_rate: float = 5e-4
    weight_decay: float = 0.05
    beta2: float = 0.95
    warmup: float = 0.1  # fraction of the steps
    clip_norm: float = 1.0
    augment: float = 1.0  # strength of the mild affine and intensity augmentation, 0 = none; no flips: reports name sides
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    stages: str = ""  # "LENGTH:RATE,...": relative lengths and rate factors; each has a warm-up, a cosine and a fresh optimizer


@dataclass(frozen=True, slots=True, kw_only=True)
class MethodCard:
    """What a method says of itself; shown in lists and on the board."""

    title: str
    paper: str = ""
    year: int | None = None
    license: str = ""  # of its published weights; "" where there are none
    pretraining_data: tuple[str, ...] = ()  # of its published weights, for the leakage flag
    protocol: str = ""  # the protocol family its published numbers are of: "prior-5fold", "mgca", "lovt", ...
    published: str = "not available"  # the published cell, where the board has none


class Method(typing.Protocol):
    """An image encoder, and perhaps more: the capability *is* the presence of the member.

    encode_text and prepare_text: text; feature_maps and feature_info: dense; loss: trainable. A method that learns from
    reports and cannot encode them (a masked language model, say) has prepare_text alone. `tower_features(images) -> (B, W)`,
    unprojected, is what probes read where a method has it; `learns_from_labels = True` marks one that trains on labels;
    `encode_prompts` and `class_scores` are a zero-shot rule of its own (methods/prior.py). Every method is a torch.nn.Module.
    """

    name: ClassVar[str]
    version: ClassVar[int]  # bumped whenever outputs change
    card: ClassVar[MethodCard]
    input: InputSpec  # of images as they come in; at evaluation that of eval mode
    config: Any

    @classmethod
    def preset(cls, preset: str) -> tuple[Any, Recipe]:
        """The frozen configuration and the recipe at "quick", "small" or "paper". Raises UserError for another."""
        ...

    @classmethod
    def build(cls, config: Any, tokenizer: Tokenizer | None) -> Self:
        """A method with weights drawn from the global torch generator. Raises Unavailable if weights cannot be had."""
        ...

    def encode_image(self, images: Tensor) -> Features:
        """images: (B, C, h, w) float32, normalised by `input`; never masked."""
        ...

    def similarity(self, image: Features, text: Features) -> Tensor:
        """(N, M) float32, higher is nearer."""
        ...


@typing.runtime_checkable
class TextEncoder(typing.Protocol):
    """The capability "text"."""

    tokenizer: Tokenizer

    def prepare_text(self, texts: Sequence[str]) -> TextBatch:
        """Tokenises on the CPU, padded to the longest of the batch; texts over the limit are counted, not hidden."""
        ...

    def encode_text(self, text: TextBatch) -> Features:
        """text: (B, T) tokens; never masked."""
        ...


@typing.runtime_checkable
class Dense(typing.Protocol):
    """The capability "dense": native maps of the encoder. Pyramids are built by the heads and count as head parameters."""

    feature_info: tuple[tuple[int, int], ...]  # (channels, stride) of each map, from fine to coarse

    def feature_maps(self, images: Tensor) -> tuple[Tensor, ...]:
        """images (B, C, h, w) float32 -> maps (B, channels, ceil(h / stride), ceil(w / stride))."""
        ...


@typing.runtime_checkable
class Trainable(typing.Protocol):
    """The capability "trainable"."""

    def loss(self, batch: Batch, step: Step) -> Iterator[Mapping[str, Tensor]]:
        """Yields one mapping of scalar terms by name, "total" among them, for each backward pass of the step.

        Most methods yield once. The loop calls backward on each "total" before it asks for the next one, so that a
        method with two passes never holds both graphs.
        """
        ...


CAPABILITIES: dict[str, str] = {"text": "encode_text", "dense": "feature_maps", "trainable": "loss"}


def reads_reports(method: object) -> bool:
    """Whether a method or its class learns from or encodes reports, and so needs a tokenizer."""
    return hasattr(method, "prepare_text")


def capabilities(method: object) -> frozenset[str]:
    """The capabilities of a method or of its class."""
    return frozenset(name for name, member in CAPABILITIES.items() if hasattr(method, member))


# --------------------------------------------------------------------------------------------- tasks


@dataclass(frozen=True, slots=True, kw_only=True)
class Protocol:
    """How a score is made, as a literal: everything that all rows share. `hash` stands in every result.

    `settings` holds what only one task family reads (head, schedule, prompts, ...), as sorted pairs.
    """

    name: str
    version: int
    task: str
    primary: str  # the metric that ranks
    higher_is_better: bool = True
    views: Literal["frontal", "all"] = "frontal"  # frontal: NOT_FRONTAL are left out, "" stays
    one_per_study: bool = False  # the first image of a study in the order of uids
    text: tuple[str, ...] = ()  # sections joined in this order; the first group present wins
    fractions: tuple[float, ...] = (1.0,)  # of the training patients, nested
    settings: tuple[tuple[str, Scalar], ...] = ()
    summary: str = ""  # for people; not hashed

    @property
    def hash(self) -> str:
        """The first 8 hexadecimal digits of the sha256 over every field but the summary."""
        return digest({**plain(self), "summary": ""}, 8)

    def setting(self, name: str) -> Any:
        """One of the settings. Raises KeyError."""
        return dict(self.settings)[name]


@dataclass(frozen=True, slots=True)
class Predictions:
    """What a task keeps of a run: enough to compute every metric again without a GPU.

    uids, patients: (N,) str, one row an evaluation unit. arrays: name -> (N, ...). names: what the columns of the arrays
    mean, for example {"classes": (K names)}. skipped: (uid, reason), rows that should be here and are not.
    """

    uids: NDArray[np.str_]
    patients: NDArray[np.str_]
    arrays: Mapping[str, NDArray[Any]]
    names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    skipped: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        lengths = {len(self.uids), len(self.patients), *(len(item) for item in self.arrays.values())}
        if len(lengths) != 1:
            raise ValueError(f"arrays of predictions differ in length: {sorted(lengths)}")

    def take(self, rows: NDArray[np.intp]) -> Predictions:
        """The given rows, in that order."""
        arrays = {name: item[rows] for name, item in self.arrays.items()}
        return Predictions(self.uids[rows], self.patients[rows], arrays, self.names, self.skipped)


class Task(typing.Protocol):
    """One family. `run` is the only part that needs a method or a GPU; `score` is pure numpy over what was kept."""

    name: ClassVar[str]
    version: ClassVar[int]
    needs: ClassVar[frozenset[str]]  # capabilities of a method

    def protocols(self, preset: str) -> tuple[Protocol, ...]:
        """The literals that this family runs at a preset, or those of papers that run when named ("published")."""
        ...

    def check(self, data: Dataset, protocol: Protocol) -> None:
        """Raises Unsupported or Unavailable, before anything runs, when the data set lacks what the protocol needs."""
        ...

    def run(self, method: Any, data: Dataset, protocol: Protocol, fraction: float, context: Context) -> Predictions:
        """Fits what must be fitted on train and val, predicts test. Deterministic in (weights, protocol, eval seed)."""
        ...

    def score(
        self, predictions: Predictions, protocol: Protocol, weights: NDArray[np.float64]
    ) -> Mapping[str, NDArray[np.float64]]:
        """Metrics of R reweightings of the rows.

        Args:
            weights: (R, N), how often each row counts in each draw; ones for the point value.

        Returns:
            name -> (R,) float64, nan where undefined. The same function makes values and bootstrap intervals.
        """
        ...

    def references(self, predictions: Predictions, data: Dataset, protocol: Protocol) -> Mapping[str, Predictions]:
        """Trivial rows and oracles for the same test rows: name -> predictions of the same layout."""
        ...


# ------------------------------------------------------------------------------------------- results


@dataclass(frozen=True, slots=True, kw_only=True)
class PretrainSpec:
    """Everything that decides pretrained weights; its key names their folder before they exist."""

    method: str
    method_version: int
    config: Mapping[str, Scalar]
    recipe: Mapping[str, Scalar]
    dataset: str
    dataset_version: str
    split: str  # sha256 of the training rows
    seed: int

    @property
    def key(self) -> str:
        """16 hexadecimal digits."""
        return digest(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSpec:
    """Everything that may change a number and nothing else; its hash is the cache key and the file name."""

    method: str
    method_version: int
    config: Mapping[str, Scalar]
    weights: str  # PretrainSpec key, "file:SHA256", "hub:NAME", "seed" for drawn weights, or "none" for a reference row
    task: str
    task_version: int
    protocol: str
    protocol_hash: str
    dataset: str
    dataset_version: str
    splits: Mapping[str, str]  # split -> sha256 of its rows
    label_fraction: float
    seed: int
    eval_seed: int
    precision: str

    @property
    def key(self) -> str:
        """16 hexadecimal digits."""
        return digest(self)


@dataclass(frozen=True, slots=True)
class Metric:
    """A value with its 95 % interval over n units (patients); None where it is undefined or was not asked for."""

    value: float | None
    low: float | None = None
    high: float | None = None
    n: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What a phase of work took. GPU figures are None on a CPU, never 0. Memory in MiB, MACs counted once each."""

    seconds: Mapping[str, float] = field(default_factory=dict)
    images_per_second: float | None = None
    step_seconds: float | None = None  # median of a training step after warm-up
    peak_allocated_mib: float | None = None
    peak_reserved_mib: float | None = None
    peak_device_mib: float | None = None
    peak_host_mib: float | None = None
    params: int | None = None
    gmacs: float | None = None
    batch_size: int | None = None
    device: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunResult:
    """One cell of the leaderboard, as it lies in results/<key>.json."""

    key: str
    status: Status
    spec: RunSpec
    title: str  # the row's name for people
    role: Literal["method", "reference"] = "method"  # reference: trivial rows and oracles
    primary: str = ""
    higher_is_better: bool = True
    metrics: Mapping[str, Metric] = field(default_factory=dict)
    n_expected: int = 0
    n_used: int = 0
    skipped: tuple[tuple[str, str], ...] = ()
    cost: Cost = field(default_factory=Cost)
    pretraining: Cost | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    flags: tuple[str, ...] = ()
    notes: Mapping[str, Scalar] = field(default_factory=dict)  # truncated texts, chosen regularisation, weights sha256, ...
    predictions: str = ""  # sha256 of the .npz beside it
    error: str | None = None  # full traceback when failed; reason and remedy when unavailable or unsupported
    command: str = ""
    started: str = ""  # ISO 8601 UTC
    finished: str = ""
    schema: int = 1
