"""The clauses of the contract on what a method encodes: features, tokens, maps; see `benchmark.contract`.

Each takes the subject, raises Broken with what is wrong, and returns what was seen.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor

from benchmark import repro
from benchmark.errors import UserError
from benchmark.types import Features, Recipe, TextBatch, capabilities

TOLERANCE = 1e-4  # of a feature, between one batch and another
REPORTS = (
    "There is a small left pleural effusion. The heart is enlarged.",
    "",
    "No focal consolidation, no pneumothorax. Heart size is normal and both lungs are clear.",
    "Right lower lobe opacity is new.",
)
SIXTY = " ".join(f"Rib {number} is intact." for number in range(1, 61))  # as many sentences, more than most limits take
TEXTS = (*REPORTS, "  \n ", "... ;", SIXTY)
# what a method may raise by mistake; not Exception, which a memory error is too
MISTAKES = (
    RuntimeError, ValueError, TypeError, AttributeError, LookupError, NotImplementedError, AssertionError, ArithmeticError,
    OSError, UserError,
)  # fmt: skip


class Broken(Exception):  # noqa: N818  (a finding, not an error)
    """A clause that is not kept, in one sentence."""


class Subject:
    """The method under examination, and what it is shown."""

    method: Any

    def __init__(self, method_class: Any, preset: str, tokenizer: Tokenizer, config: Any) -> None:
        self.method_class, self.preset, self.tokenizer, self.config = method_class, preset, tokenizer, config

    @property
    def recipe(self) -> Recipe:
        """The preset's."""
        recipe: Recipe = self.method_class.preset(self.preset)[1]
        return recipe

    def built(self, seed: int) -> Any:
        """A new one in evaluation mode, its weights drawn from the seed."""
        config = self.config if self.config is not None else self.method_class.preset(self.preset)[0]
        with repro.seeded("contract", seed):
            return self.method_class.build(config, self.tokenizer).eval()

    def images(self, n: int = 4, height: int = 0, width: int = 0) -> Tensor:
        """(n, C, h, w) float32, the same for the same arguments."""
        spec = self.method.input
        generator = torch.Generator().manual_seed(n)
        return torch.randn(n, spec.channels, height or spec.size, width or spec.size, generator=generator)

    def encode_images(self, images: Tensor) -> Features:
        """What the method makes of images (n, C, h, w)."""
        with torch.inference_mode():
            found: Features = self.method.encode_image(images)
        return found

    def encode_texts(self, texts: Sequence[str]) -> Features:
        """What the method makes of texts."""
        with torch.inference_mode():
            found: Features = self.method.encode_text(self.method.prepare_text(list(texts)))
        return found


Clause = Callable[[Subject], str]


def require(kept: bool, problem: str) -> None:
    """Raises Broken with the problem unless it is kept."""
    if not kept:
        raise Broken(problem)


def first(names: list[str]) -> str:
    """The first name in quotes, for a message."""
    return repr(names[0]) if names else ""


def _check_features(found: Any, n: int, what: str) -> str:
    if not isinstance(found, Features):
        raise Broken(f"{what} must give benchmark.types.Features, not {type(found).__name__}")
    pooled = found.pooled
    shape = tuple(pooled.shape)
    require(pooled.ndim == 2 and len(pooled) == n, f"pooled is {shape}, expected ({n}, D)")
    require(pooled.dtype == torch.float32, f"pooled is {pooled.dtype}, expected float32; call .float()")
    require(bool(torch.isfinite(pooled).all()), "pooled holds NaN or infinity")
    length = pooled.norm(dim=1)
    require(bool(((length - 1).abs() < TOLERANCE).all()),
             f"pooled must be L2-normalised; lengths are {length.min():.4f} to {length.max():.4f}")  # fmt: skip
    if found.tokens is not None:
        require(
            found.tokens.ndim == 3 and len(found.tokens) == n, f"tokens are {tuple(found.tokens.shape)}, expected ({n}, P, D)"
        )
    if found.mask is not None:
        require(found.tokens is not None and found.mask.shape == found.tokens.shape[:2], "mask must have the shape of tokens")
        require(found.mask.dtype == torch.bool, f"mask is {found.mask.dtype}, expected bool, True = real")
    return f"{shape[1]} values of length 1"


def image_features(subject: Subject) -> str:
    """Shape, type, length and finiteness; the input stays as it is; two images differ."""
    images = subject.images()
    before = images.clone()
    found = subject.encode_images(images)
    message = _check_features(found, len(images), "encode_image")
    require(
        not torch.equal(found.pooled[0], found.pooled[1]), "two different images give the same features; the encoder is dead"
    )
    require(torch.equal(images, before), "encode_image changes its input; clone before writing to it")
    return message


def repeat(subject: Subject) -> str:
    """The same images give the same features whatever the random state is, and change no weights or buffers."""
    images, state = subject.images(), {name: item.clone() for name, item in subject.method.state_dict().items()}
    found = []
    for seed in (0, 1):
        with repro.seeded("contract repeat", seed):
            found.append(subject.encode_images(images).pooled)
    require(
        torch.equal(*found), "the same images give other features the second time; mask, drop and draw nothing in eval mode"
    )
    changed = [name for name, item in subject.method.state_dict().items() if not torch.equal(item, state[name])]
    require(not changed, f"encode_image changes the weights or buffers in eval mode, first {first(changed)}")
    return "bitwise"


def images_alone(subject: Subject) -> str:
    """Features of an image do not depend on the images beside it."""
    images = subject.images()
    return _alone(lambda rows: subject.encode_images(images[rows]).pooled, len(images))


def texts_alone(subject: Subject) -> str:
    """Features of a text do not depend on the texts beside it, nor on the padding they bring."""
    return _alone(lambda rows: subject.encode_texts([TEXTS[row] for row in rows]).pooled, len(TEXTS))


def _alone(encode: Callable[[list[int]], Tensor], n: int) -> str:
    """Rows one by one (texts then have no padding) and backwards give what the whole batch gives."""
    together = encode(list(range(n)))
    backwards = encode(list(range(n))[::-1]).flip(0)
    apart = torch.cat([encode([row]) for row in range(n)])
    worst = max(float((other - together).abs().max()) for other in (backwards, apart))
    require(worst < TOLERANCE, f"a row's features move by {worst:.2g} with the rest of its batch; look at norms and padding")
    return f"within {worst:.1g}"


def similarity(subject: Subject) -> str:
    """(N, M), finite."""
    image = subject.encode_images(subject.images())
    text = subject.encode_texts(REPORTS[:3]) if "text" in capabilities(subject.method) else Features(image.pooled[:3])
    with torch.inference_mode():
        found = subject.method.similarity(image, text)
    require(tuple(found.shape) == (4, 3), f"similarity of 4 images and 3 texts is {tuple(found.shape)}, expected (4, 3)")
    require(bool(torch.isfinite(found).all()), "similarity holds NaN or infinity")
    return "(4, 3), finite"


def tokens(subject: Subject) -> str:
    """Shapes and types of a TextBatch, of an empty text too."""
    found = subject.method.prepare_text(list(TEXTS))
    if not isinstance(found, TextBatch):
        raise Broken("prepare_text must give a benchmark.types.TextBatch")
    shape = tuple(found.ids.shape)
    require(len(shape) == 2 and shape[0] == len(TEXTS), f"ids are {shape}, expected ({len(TEXTS)}, T)")
    kinds = {"ids": torch.int64, "mask": torch.bool, "special": torch.bool, "sentences": torch.int64, "words": torch.int64}
    for name, kind in kinds.items():
        item = getattr(found, name)
        good = tuple(item.shape) == shape and item.dtype == kind
        require(good, f"{name} must be {shape} {kind}, not {tuple(item.shape)} {item.dtype}")
    require(bool(found.mask.any(dim=1).all()), "an empty text needs at least one real token; mask is all False")
    return f"{shape[1]} tokens for the longest of {len(TEXTS)} reports"


def text_features(subject: Subject) -> str:
    """As image_features, of an empty text, of punctuation and of 60 sentences too."""
    return _check_features(subject.encode_texts(TEXTS), len(TEXTS), "encode_text") + ", of an empty text too"


def long_text(subject: Subject) -> str:
    """A text over the limit is counted as truncated, or not cut."""
    words = 5000
    found = subject.method.prepare_text(["heart " * words, "clear lungs."])
    n = int(found.mask[0].sum())
    lost = n < words
    require(
        found.truncated == int(lost),
        f"{n} tokens are left of {words} words, and truncated says {found.truncated}, not {int(lost)}",
    )
    if "text" in capabilities(subject.method):
        with torch.inference_mode():
            _check_features(subject.method.encode_text(found), 2, "encode_text of a long text")
    return f"cut to {n} tokens and counted" if lost else f"{n} tokens, not cut"


def _check_maps(subject: Subject, images: Tensor) -> None:
    with torch.inference_mode():
        maps = subject.method.feature_maps(images)
    info = subject.method.feature_info
    require(len(maps) == len(info) > 0, f"feature_maps gives {len(maps)} maps, feature_info names {len(info)}")
    height, width = images.shape[-2:]
    for item, (channels, stride) in zip(maps, info, strict=True):
        expected = (len(images), channels, -(-height // stride), -(-width // stride))
        require(tuple(item.shape) == expected, f"a map at stride {stride} is {tuple(item.shape)}, expected {expected}")
        require(bool(torch.isfinite(item).all()), f"the map at stride {stride} holds NaN or infinity")


def maps(subject: Subject) -> str:
    """Maps at the native size are as feature_info says."""
    strides = [stride for _, stride in subject.method.feature_info]
    require(strides == sorted(strides), f"feature_info goes from fine to coarse, strides {strides} do not")
    _check_maps(subject, subject.images(2))
    return f"strides {', '.join(map(str, strides))}"


def other_sizes(subject: Subject) -> str:
    """At another size, which a method may refuse, maps are as feature_info says."""
    size = subject.method.input.size
    coarsest = max(stride for _, stride in subject.method.feature_info)
    height, width = size + coarsest, max(coarsest, size - coarsest)
    try:
        with torch.inference_mode():
            subject.method.feature_maps(subject.images(1, height, width))
    except MISTAKES:
        return f"not supported; {size} x {size} only"
    _check_maps(subject, subject.images(1, height, width))
    return f"{height} x {width} too"
