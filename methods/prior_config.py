"""PRIOR's settings: the fields, what is refused, and the presets."""

from __future__ import annotations

from dataclasses import dataclass, replace

from benchmark.errors import UserError
from benchmark.types import Recipe
from methods.base import TowerConfig, check_choice, check_range, tower_preset, tower_recipe
from methods.prior_prototypes import SCHEDULES

STAGES = "20:1,30:1,100:0.5"  # epochs and rates of the published training: 1e-5, 1e-5, 5e-6
# From drawn towers the published stages left the contrast at its flat start in every run that was tried (one seed each, the
# phantom); these did not. Which of stages, rates and temperature matters was not separated.
STAGES_FROM_SCRATCH = "100:1,30:0.3,120:0.3"


@dataclass(frozen=True, slots=True, kw_only=True)
class PRIORConfig(TowerConfig):
    """What PRIOR adds to the towers; the last five are quirks of the released code, off by default.

    prototypes: of the bank. max_sentences: that the report decoder has queries for. decoder_positions: 0 for as many.
    image_decoder_channels: of its first block; 0 for embed_dim, as published. *_weight: of the totals, global_weight in
    stage 3 alone. patch_layout: "official" reads the map of patches as if its channels came last.
    """

    local_temperature: float = 0.07  # as the global one; the published 0.01 learned nothing from drawn towers
    pool_heads: int = 8
    sentence_pool: str = "mean"
    prototypes: int = 128
    bank_temperature: float = 0.9
    bank_schedule: str = "fixed"
    max_sentences: int = 16
    decoder_layers: int = 2
    decoder_heads: int = 4
    decoder_positions: int = 0
    image_decoder_channels: int = 32
    channel_dropout: float = 0.5
    global_weight: float = 10.0
    prototype_weight: float = 10.0
    sentence_weight: float = 10.0
    patch_layout: str = "spatial"
    inverse_permutation: bool = False
    causal_decoder: bool = False
    gumbel_at_evaluation: bool = False
    raw_logit_scale: bool = False

    def __post_init__(self) -> None:
        TowerConfig.__post_init__(self)
        for name, only in (("alignment", "mba"), ("aggregator", "mean"), ("attention_query", "per-modality")):
            if getattr(self, name) != only:
                raise UserError(f"{name}={getattr(self, name)!r}: PRIOR has its own attention pools; leave {name}={only}")
        check_choice(self, "sentence_pool", ("mean", "attention"))
        check_choice(self, "bank_schedule", SCHEDULES)
        check_choice(self, "patch_layout", ("spatial", "official"))
        for name in ("pool_heads", "prototypes", "max_sentences", "decoder_layers", "decoder_heads"):
            check_range(self, name, 1, 4096)
        check_range(self, "image_decoder_channels", 0, 4096)
        check_range(self, "decoder_positions", 0, 4096)
        for name in ("local_temperature", "bank_temperature"):
            check_range(self, name, 0.01, 10.0)
        check_range(self, "channel_dropout", 0.0, 0.95)
        for name in ("global_weight", "prototype_weight", "sentence_weight"):
            check_range(self, name, 0.0, 1e6)
        if 0 < self.decoder_positions < self.max_sentences:
            raise UserError(
                f"decoder_positions={self.decoder_positions} must be 0 or at least max_sentences={self.max_sentences}"
            )
        for name in ("pool_heads", "decoder_heads"):
            check_divides(name, getattr(self, name), "embed_dim", self.embed_dim)


def check_divides(name: str, heads: int, what: str, width: int) -> None:
    """Raises UserError unless the width is a multiple of the heads."""
    if width % heads:
        raise UserError(f"{name}={heads} must divide {what}={width}")


def preset(name: str) -> tuple[PRIORConfig, Recipe]:
    """The configuration and recipe at "quick", "small" or "paper". Raises UserError for another."""
    towers, recipe = tower_preset(name), replace(tower_recipe(name), stages=STAGES_FROM_SCRATCH)
    if name == "small":
        towers |= {"prototypes": 256, "decoder_layers": 3, "decoder_heads": 5}
    if name == "paper":
        towers |= {
            "image_encoder": "resnet50.tv_in1k", "image_channels": 1, "pixel_stats": "0.4755,0.3011", "resize": "stretch",
            "max_tokens": 256, "embed_dim": 768, "prototypes": 512, "decoder_layers": 8, "decoder_heads": 12,
            "image_decoder_channels": 0, "temperature": 0.01, "local_temperature": 0.01,
        }  # fmt: skip
        # 150 epochs of 182,475 pairs; warm-ups of 1, 1 and 5 epochs. Here and not there: no decay of biases and norms,
        # no flips (reports name sides)
        recipe = replace(
            recipe, stages=STAGES, steps=46_500, batch_size=588, learning_rate=1e-5, weight_decay=1e-6, beta2=0.999,
            warmup=0.05, clip_norm=0.0, precision="fp16",
        )  # fmt: skip
    return PRIORConfig(**towers), recipe
