"""The tuned dimensions of a spec: what Optuna searches in each arm."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final

from harness.config.messages import fitting_kinds, wrong_values
from harness.config.mixture import plain_path
from harness.config.objective import TEXTS, TOKENIZER
from harness.config.samplers import SAMPLERS
from harness.config.tokenizers import wrong_recipe
from harness.core.text import shown, unknown

KINDS: Final = ("uniform", "log_uniform", "int_uniform", "choice")
MAX_TEXT: Final = 200  # characters of a compared or tuned text: an arm, its study and its runs are named after it


@dataclass(frozen=True)
class Dimension:
    """One tuned dimension. `values` are (low, high) for a range and the options for a choice."""

    kind: str
    values: tuple[Any, ...]

    @property
    def size(self) -> float:
        """How many different values it has; infinite for real numbers."""
        if self.kind == "choice":
            return len(self.values)
        low, high = self.values
        return high - low + 1 if self.kind == "int_uniform" else math.inf

    def plain(self) -> dict[str, list[Any]]:
        """As it is written in YAML: `{log_uniform: [0.0003, 0.003]}`."""
        return {self.kind: list(self.values)}


def wrong_dimension(path: str, written: Any, sampler: str | None) -> str | None:
    """What is wrong with a tuned path's value in a spec, and what is allowed; None: nothing.

    Args:
        path: of the tuned field.
        written: `{kind: values}` if it is right.
        sampler: of the study; None if the study is wrong.
    """
    kind = next(iter(written)) if isinstance(written, dict) and len(written) == 1 else None
    if kind is None:
        example = "{log_uniform: [3e-4, 3e-3]}"
        return f"found {shown(written)}; allowed: one of {', '.join(KINDS)}, for example {example}"
    if kind not in KINDS:
        return unknown(str(kind), KINDS, "kind of dimension")
    values = written[kind]
    if kind not in (fitting := fitting_kinds(path)):
        return f"found {kind}, which {path} cannot have; allowed: {' | '.join(fitting)}"
    if path == TOKENIZER and (wrong := wrong_recipe(values)):
        return wrong
    if wrong := wrong_values(kind, values):
        return f"found {kind} {shown(values)}; allowed: {wrong}"
    if any(isinstance(value, str) and len(value) > MAX_TEXT for value in values):
        return f"found a text of over {MAX_TEXT} characters; allowed: shorter ones"
    if sampler is not None and SAMPLERS[sampler].choices_only and kind != "choice":
        return f"found {kind} with study.sampler {sampler}; allowed: choice"
    if plain_path(path) in TEXTS and len(values) > 1:
        return "changes the validation text, so that its trials cannot be compared; allowed: one value, under data"
    return None
