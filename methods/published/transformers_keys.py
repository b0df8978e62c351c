"""Keys of transformers' models, of version 4 and of version 5, under the names that timm and we give them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from benchmark.errors import UserError
from benchmark.published import Converted, State, rename
from benchmark.types import Scalar

HEAD = 64  # channels of an attention head in every BERT and ViT here; no shape tells it
FUSED = "|"  # marks a third of a fused projection: "attn.qkv|0.weight"
Rules = Sequence[tuple[str, str]]

SWIN: Rules = (
    (r"embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"embeddings\.norm\.", "patch_embed.norm."),
    (r"layernorm\.", "norm."),
    (r"encoder\.(layers\.\d+)\.(blocks\.\d+)\.layernorm_before\.", r"\1.\2.norm1."),
    (r"encoder\.(layers\.\d+)\.(blocks\.\d+)\.layernorm_after\.", r"\1.\2.norm2."),
    (r"encoder\.(layers\.\d+)\.(blocks\.\d+)\.attention\.(?:self\.query|q_proj)\.", r"\1.\2.attn.qkv|0."),
    (r"encoder\.(layers\.\d+)\.(blocks\.\d+)\.attention\.(?:self\.key|k_proj)\.", r"\1.\2.attn.qkv|1."),
    (r"encoder\.(layers\.\d+)\.(blocks\.\d+)\.attention\.(?:self\.value|v_proj)\.", r"\1.\2.attn.qkv|2."),
    (r"encoder\.(layers\.\d+)\.(blocks\.\d+)\.attention\.(?:output\.dense|o_proj)\.", r"\1.\2.attn.proj."),
    (r"encoder\.(layers\.\d+)\.(blocks\.\d+)\.attention\.(?:self|relative_position_bias)\.(relative_position_bias_table)$",
     r"\1.\2.attn.\3"),
    (r"encoder\.(layers\.\d+)\.(blocks\.\d+)\.(?:intermediate\.dense|mlp\.fc1)\.", r"\1.\2.mlp.fc1."),
    (r"encoder\.(layers\.\d+)\.(blocks\.\d+)\.(?:output\.dense|mlp\.fc2)\.", r"\1.\2.mlp.fc2."),
    (r"encoder\.layers\.(\d+)\.downsample\.", r"layers.+\1.downsample."),  # timm counts it to the stage that follows
)  # fmt: skip

DINOV2: Rules = (
    (r"embeddings\.cls_token$", "cls_token"),
    (r"embeddings\.position_embeddings$", "pos_embed"),
    (r"embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"layernorm\.", "norm."),
    (r"encoder\.layer\.(\d+)\.attention\.(?:attention\.query|q_proj)\.", r"blocks.\1.attn.qkv|0."),
    (r"encoder\.layer\.(\d+)\.attention\.(?:attention\.key|k_proj)\.", r"blocks.\1.attn.qkv|1."),
    (r"encoder\.layer\.(\d+)\.attention\.(?:attention\.value|v_proj)\.", r"blocks.\1.attn.qkv|2."),
    (r"encoder\.layer\.(\d+)\.attention\.(?:output\.dense|o_proj)\.", r"blocks.\1.attn.proj."),
    (r"encoder\.layer\.(\d+)\.layer_scale(\d)\.lambda1$", r"blocks.\1.ls\2.gamma"),
    (r"encoder\.layer\.(\d+)\.(norm[12]|mlp)\.", r"blocks.\1.\2."),
)


def to_timm(state: State, rules: Rules) -> dict[str, Tensor]:
    """A transformers state under timm's names, queries, keys and values fused into one projection.

    Raises:
        UserError: a key that no rule maps, or a projection without all of its three parts.
    """
    renamed = {_renamed(key, rules): value for key, value in state.items()}
    ours = {key: value for key, value in renamed.items() if FUSED not in key}
    parts: dict[str, dict[int, Tensor]] = {}
    for key in renamed.keys() - ours.keys():
        name, rest = key.split(FUSED)
        parts.setdefault(name + rest[1:], {})[int(rest[0])] = renamed[key]
    for name, found in parts.items():
        if set(found) != {0, 1, 2} or len({item.shape for item in found.values()}) != 1:
            raise UserError(f"published checkpoint: {name!r} needs query, key and value of one shape")
        ours[name] = torch.cat([found[part] for part in range(3)])
    return ours


def convert_swin(state: State, prefix: str, prefixes: Mapping[str, str], unneeded: Sequence[str]) -> Converted:
    """A file with a Swin of transformers under a prefix, which becomes `image_tower.model.`; the rest by `rename`.

    Raises:
        UserError: a key of neither.
    """
    index = tuple(key for key in state if key.endswith(".relative_position_index"))  # follows from the window's size
    swin = under({key: value for key, value in state.items() if key not in index}, prefix)
    found = rename({key: value for key, value in state.items() if not key.startswith(prefix)}, prefixes, unneeded)
    tower = {f"image_tower.model.{key}": value for key, value in to_timm(swin, SWIN).items()}
    return Converted({**found.state, **tower}, (*found.left_out, *index))


def _renamed(key: str, rules: Rules) -> str:
    for pattern, replacement in rules:
        if match := re.match(pattern, key):
            name = match.expand(replacement) + key[match.end() :]
            return re.sub(r"\+(\d+)", lambda found: str(int(found[1]) + 1), name)
    raise UserError(f"published checkpoint: the key {key!r} is not of this kind of file")


def under(state: State, prefix: str) -> dict[str, Tensor]:
    """The keys under a prefix, without it."""
    return {key[len(prefix) :]: value for key, value in state.items() if key.startswith(prefix)}


def depth(state: State, prefix: str) -> int:
    """How many numbered modules follow a prefix, as "encoder.layer."."""
    return len({key[len(prefix) :].split(".")[0] for key in state if key.startswith(prefix)})


def heads(width: int) -> int:
    """Attention heads of a width, by BERT's and ViT's 64 channels each."""
    return max(1, width // HEAD)


def bert_fields(state: State, prefix: str) -> dict[str, Scalar]:
    """The configuration fields of a BERT under a prefix, read off its shapes."""
    words, positions, types = (
        state[f"{prefix}embeddings.{name}_embeddings.weight"].shape for name in ("word", "position", "token_type")
    )
    return {
        "text_width": words[1], "text_layers": depth(state, f"{prefix}encoder.layer."), "text_heads": heads(words[1]),
        "text_positions": positions[0], "text_types": types[0],
    }  # fmt: skip


def bert_unneeded(prefix: str) -> tuple[str, ...]:
    """What older transformers keep beside a BERT's weights, and the pooler, which nothing here reads."""
    return (f"{prefix}embeddings.position_ids", f"{prefix}embeddings.token_type_ids", f"{prefix}pooler.")


def has(state: Mapping[str, Tensor], *keys: str) -> bool:
    """Whether every key is there."""
    return all(key in state for key in keys)
