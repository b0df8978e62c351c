"""Prompt sets by name and version: templates of a positive and a negative statement about a class."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PromptSet:
    """Templates with the place {name}; `phrases` gives the words for classes whose name is not a phrase."""

    positive: tuple[str, ...]
    negative: tuple[str, ...]
    phrases: tuple[tuple[str, tuple[str, str]], ...] = ()  # class -> (in a positive, in a negative statement)

    def prompts(self, name: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Positive and negative prompts of a class."""
        positive, negative = dict(self.phrases).get(name, (name.lower(), name.lower()))
        return (
            tuple(template.format(name=positive) for template in self.positive),
            tuple(template.format(name=negative) for template in self.negative),
        )


PROMPT_SETS: dict[str, PromptSet] = {
    "observed-1": PromptSet(
        positive=("{name} is observed.", "{name} is seen.", "findings consistent with {name}."),
        negative=("no {name} is observed.", "no {name} is seen.", "no findings consistent with {name}."),
        phrases=(("No Finding", ("a normal chest", "normal chest")),),
    ),
}
