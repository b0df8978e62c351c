"""What takes the steps of a pretraining: AdamW, and an average of the weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from benchmark.training import shards
from benchmark.training.blocks import rate_factors
from benchmark.types import Recipe


def optimizer_of(method: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """AdamW, with weight decay on matrices only: not on biases, norms and scalars. Fused on a GPU.

    Each group has the "factor" of its rate, below 1 in the lower layers where the recipe has a layer decay.
    """
    trained = [parameter for parameter in method.parameters() if parameter.requires_grad]
    factors = rate_factors(method, recipe.layer_decay) if recipe.layer_decay != 1 else {}
    found: dict[tuple[float, bool, bool], list[nn.Parameter]] = {}
    for item in trained:  # spread ones apart: one call of a kernel cannot take both
        found.setdefault((-factors.get(item, 1.0), item.ndim <= 1, shards.is_part(item)), []).append(item)
    groups = [
        {"params": found[kind], "weight_decay": 0.0 if kind[1] else recipe.weight_decay, "factor": -kind[0]}
        for kind in sorted(found)
    ]
    fused = bool(trained) and all(item.device.type == "cuda" for item in trained)
    return torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=(0.9, recipe.beta2), fused=fused or None)


def moments_of(optimizer: Any, method: nn.Module) -> dict[str, dict[str, Tensor]]:
    """What an optimizer keeps for each parameter, in one piece, by the parameter's name; every process calls it."""
    return {
        name: {key: shards.whole(value) for key, value in optimizer.state[item].items()}
        for name, item in method.named_parameters() if item in optimizer.state
    }  # fmt: skip


def load_moments(optimizer: Any, method: nn.Module, moments: Mapping[str, Mapping[str, Tensor]]) -> None:
    """Goes on from what `moments_of` gave, in however many processes."""
    names = {item: name for name, item in method.named_parameters()}
    ordered = [item for group in optimizer.param_groups for item in group["params"]]
    state = {
        number: {key: shards.placed(value, item) if value.ndim else value for key, value in moments[names[item]].items()}
        for number, item in enumerate(ordered) if names[item] in moments
    }  # fmt: skip
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


class Average:
    """An exponential moving average of a module's tensors, kept in float32 or wider beside it.

    After step n (from 0 on) each is d a + (1 - d) w with d = min(decay, (1 + n) / (10 + n)), so that it soon forgets the start
    (TensorFlow's ExponentialMovingAverage with num_updates). Whole numbers are those of the module.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.values = {name: item.detach().clone() for name, item in module.state_dict().items()}

    @torch.no_grad()
    def update(self, module: nn.Module, step: int) -> None:
        """Takes in the weights after a step."""
        share = 1 - min(self.decay, (1 + step) / (10 + step))
        pairs = [(shards.own(self.values[name]), shards.own(item)) for name, item in module.state_dict().items()]
        floats = [(own, item) for own, item in pairs if own.is_floating_point()]
        torch._foreach_lerp_([own for own, _ in floats], [item for _, item in floats], share)
        for own, item in pairs:
            if not own.is_floating_point():
                own.copy_(item)

    def give(self, module: nn.Module) -> None:
        """Puts the average in the place of the weights."""
        module.load_state_dict(self.values)

    def load(self, values: dict[str, Tensor]) -> None:
        """Goes on from stored values."""
        for name, item in self.values.items():
            item.copy_(shards.placed(values[name].to(item.device), item))
