"""One measurement as a request, and the lists of them: the corners of MCR's ablation, and the programme of a GPU."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from benchmark.options import Setting
from benchmark.types import Scalar, digest

CORNERS: tuple[dict[str, Scalar], ...] = (
    {"stream": "single", "alignment": "mba"},
    {"stream": "single", "alignment": "abm"},
    {"stream": "dual", "alignment": "mba", "backward": "joint"},
    {"stream": "dual", "alignment": "mba", "backward": "sequential"},
    {"stream": "dual", "alignment": "abm", "backward": "joint"},
    {"stream": "dual", "alignment": "abm", "backward": "sequential"},
)
RANDOM_TOWERS: tuple[Setting, ...] = (("", "image_weights", "none"), ("", "text_weights", "none"))  # cost depends on no value


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One row to be measured; 0 and "" stand for what the method or its recipe says.

    largest: the batch is searched for, from batch_size on. corner: settings that name the row.
    """

    method: str
    preset: str = "quick"
    settings: tuple[Setting, ...] = ()
    corner: Mapping[str, Scalar] = field(default_factory=dict)
    batch_size: int = 0
    precision: str = ""
    tokens: int = 0
    vocabulary: int = 28996
    steps: int = 20
    warm_up: int = 5
    device: str = "auto"
    largest: bool = False
    memory_limit_gib: float = 0.0
    deterministic: bool = False

    @property
    def key(self) -> str:
        """16 hexadecimal digits; a row of the same key is not measured again."""
        return digest(self)

    def __str__(self) -> str:
        corner = " ".join(f"{name}={value}" for name, value in self.corner.items())
        batch = f"batch {self.batch_size or 'of the recipe'}{' and up to the largest' if self.largest else ''}"
        return ", ".join(part for part in (self.method, corner, self.preset, batch, self.precision) if part)


def gpu_programme(methods: Sequence[str], batch_size: int = 256) -> tuple[Job, ...]:
    """What is measured of a GPU: MCR's corners at a batch of 256; every method at 64 and at the largest batch that fits.

    All at paper size (ViT-B/16 or ResNet-50 at 224, BERT-base shape), bf16, random weights; the corners with 112 tokens.
    """
    size = {"preset": "paper", "precision": "bf16", "settings": RANDOM_TOWERS, "device": "cuda"}
    corners = [Job(method="mcr", corner=corner, batch_size=batch_size, tokens=112, **size) for corner in CORNERS]  # type: ignore[arg-type]
    fixed = [Job(method=name, batch_size=64, **size) for name in methods]  # type: ignore[arg-type]
    first = sorted(methods, key=lambda name: name not in ("mcr", "clip"))  # the target of utilization is theirs
    largest = [Job(method=name, batch_size=64, largest=True, steps=10, warm_up=2, **size) for name in first]  # type: ignore[arg-type]
    return (*corners, *fixed, *largest)
