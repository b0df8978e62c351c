"""What takes the steps of a pretraining: AdamW, and an average of the weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from benchmark.training.blocks import rate_factors
from benchmark.types import Recipe


def optimizer_of(method: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """AdamW, with weight decay on matrices only: not on biases, norms and scalars. Fused on a GPU.

    Each group has the "factor" of its rate, below 1 in the lower layers where the recipe has a layer decay.
    """
    trained = [parameter for parameter in method.parameters() if parameter.requires_grad]
    factors = rate_factors(method, recipe.layer_decay) if recipe.layer_decay != 1 else {}
    steps = sorted({factors.get(item, 1.0) for item in trained}, reverse=True)
    groups = [
        {"params": [item for item in trained if (item.ndim > 1) == wide and factors.get(item, 1.0) == factor],
         "weight_decay": recipe.weight_decay if wide else 0.0, "factor": factor}
        for factor in steps for wide in (True, False)
    ]  # fmt: skip
    fused = bool(trained) and all(item.device.type == "cuda" for item in trained)
    return torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=(0.9, recipe.beta2), fused=fused or None)


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
        pairs = [(self.values[name], item) for name, item in module.state_dict().items()]
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
            item.copy_(values[name])
