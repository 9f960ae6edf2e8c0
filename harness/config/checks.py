"""Checks of whole runs: every arm with every tuned value is a valid configuration, and fits its corpus.

Single sections are checked before, in `harness.config.load`. A mistake is reported at the field, or under `compare` or
`tune` if its value is written there.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

from pydantic import ValidationError

from harness.config.fields import arm_name
from harness.config.messages import explain
from harness.config.run import RunConfig
from harness.config.sections import DataConfig
from harness.config.spec import Dimension, SweepSpec, combinations

MAX_CHECKED = 2000  # combinations of compared and tuned values that are checked

# Tokens of each split, by name, of the corpus that a data section names.
SplitSizes = Callable[[DataConfig], Mapping[str, int]]


class Codec(Protocol):
    """Encodes text with the vocabulary of a corpus."""

    @property
    def n_vocab(self) -> int:
        """Size of the vocabulary."""

    def encode(self, text: str) -> list[int]:
        """The ids of a text. Raises ValueError if it cannot be written with them."""


class RunChecks:
    """Checks the runs of a spec.

    Args:
        report: called with the dotted path and message of each mistake.
    """

    def __init__(self, report: Callable[[str, str], None]) -> None:
        self.report = report

    def runs_of(self, spec: SweepSpec) -> list[tuple[str, RunConfig]]:
        """Every arm with every tuned value or end of a range, as (where it is written, config)."""
        runs: list[tuple[str, RunConfig]] = []
        singles = [(f"compare.{path}", {path: value}) for path, values in spec.compare.items() for value in values]
        singles += [
            (f"tune.{path}", {path: value}) for path, dim in spec.tune.items() for value in _checked_values(dim)
        ]
        good = [self._try(spec, where, values, runs) for where, values in singles]
        if not all(good):  # their combinations would repeat the same mistakes
            return runs
        each = max(1, MAX_CHECKED // math.prod(len(values) for values in spec.compare.values()))
        tuned = itertools.islice(itertools.product(*(_checked_values(dim) for dim in spec.tune.values())), each)
        inside = [dict(zip(spec.tune, values, strict=True)) for values in tuned]
        for arm in combinations(spec.compare):
            for values in inside:
                if len(arm) + len(values) > 1:
                    where = "compare" if arm else "tune"
                    if not self._try(spec, where, {**arm, **values}, runs):
                        break  # one mistake per arm is enough
        if not runs:
            runs.append(("", spec.base))
        return runs

    def _try(self, spec: SweepSpec, where: str, values: Mapping[str, Any], runs: list[tuple[str, RunConfig]]) -> bool:
        try:
            runs.append((where, spec.run_config(values)))
        except ValidationError as error:
            for path, message in explain(error, RunConfig):
                if not where.endswith(path):
                    message = f"with {arm_name(values)}: {f'{path}: ' if path else ''}{message}"
                self.report(where, message)
            return False
        return True

    def splits(self, runs: Iterable[tuple[str, RunConfig]], split_sizes: SplitSizes) -> list[tuple[str, RunConfig]]:
        """Report contexts that are too long for a split; returns the runs whose corpus can be read."""
        runs = list(runs)
        sizes: dict[DataConfig, Mapping[str, int] | None] = {}
        seen: set[tuple[DataConfig, int]] = set()
        for where, config in runs:
            if (config.data, config.model.context_length) in seen:
                continue
            seen.add((config.data, config.model.context_length))
            if config.data not in sizes:
                sizes[config.data] = self.sizes(where, config.data, split_sizes)
            tokens = sizes[config.data]
            if tokens is None:
                continue
            context = config.model.context_length
            path = where if "context_length" in where else "model.context_length"
            for split, count in tokens.items():
                if 0 < count <= context:
                    self.report(
                        path,
                        f"found {context}; allowed: under {count}, the tokens of the {split} split "
                        f"(a window needs one token more than its length)",
                    )
        return [(where, config) for where, config in runs if sizes[config.data] is not None]

    def vocabularies(self, runs: Iterable[tuple[str, RunConfig]], codec_of: Callable[[DataConfig], Codec]) -> None:
        """Report vocabulary sizes and prompts that do not fit, for runs with `data.vocab: corpus`."""
        seen = set()
        for where, config in runs:
            sample, rows = config.train.sample, config.model.vocab_size
            prompt = sample.prompt if sample.max_new_tokens else None
            if config.data.vocab == "full" or (config.data, rows, prompt) in seen:
                continue
            seen.add((config.data, rows, prompt))
            try:
                codec = codec_of(config.data)
            except ValueError as error:  # its tokens may be cached although its tokenizer cannot be loaded
                self.report(getattr(error, "field", "data"), str(error))
                continue
            try:
                config.with_vocabulary(codec.n_vocab)
            except ValueError as error:
                self._report_inside(where, "model.vocab_size", str(error).partition(": ")[2])
            if prompt is not None:
                try:
                    codec.encode(prompt)
                except ValueError as error:
                    self._report_inside(where, "train.sample.prompt", f"{error}, or max_new_tokens 0")

    def _report_inside(self, where: str, path: str, message: str) -> None:
        """Report a mistake at the field, or where its values are compared or tuned."""
        self.report(where if where.endswith(path) else path, message)

    def sizes(self, where: str, data: DataConfig, split_sizes: SplitSizes) -> Mapping[str, int] | None:
        """Tokens of each split of a corpus; None, with a report, if it cannot be read."""
        try:
            return split_sizes(data)
        except ValueError as error:
            path = getattr(error, "field", "data")
            self.report(where if where.startswith(("compare.data", "tune.data")) else path, str(error))
            return None


def _checked_values(dimension: Dimension) -> Sequence[Any]:
    """The values of a dimension that are checked: both ends of a range, all values of a small range of integers."""
    if dimension.kind == "int_uniform" and dimension.values[1] - dimension.values[0] < MAX_CHECKED:
        return range(int(dimension.values[0]), int(dimension.values[1]) + 1)
    return dimension.values
