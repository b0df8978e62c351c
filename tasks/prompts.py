"""Prompt sets by name and version: templates of a positive and a negative statement about a class."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PromptSet:
    """Templates with the place {name}; `absence` names classes that state that something is not there, and what.

    A set is changed under a new name only: the name stands in the protocol's hash.
    """

    positive: tuple[str, ...]
    negative: tuple[str, ...]
    absence: tuple[tuple[str, str], ...] = ()

    def prompts(self, name: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Positive and negative prompts of a class; for an absence the two sides change places."""
        absent = dict(self.absence).get(name)
        words = absent or name.lower()
        positive = tuple(template.format(name=words) for template in self.positive)
        negative = tuple(template.format(name=words) for template in self.negative)
        return (negative, positive) if absent else (positive, negative)


PROMPT_SETS: dict[str, PromptSet] = {
    "observed-2": PromptSet(
        positive=("{name} is observed.", "{name} is seen.", "findings consistent with {name}."),
        negative=("no {name} is observed.", "no {name} is seen.", "no findings consistent with {name}."),
        absence=(("No Finding", "abnormality"),),
    ),
}
