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

from harness.config.dimensions import Dimension
from harness.config.effect import Effect, effect_of, reason
from harness.config.fields import arm_name, format_value, value_key
from harness.config.messages import explain
from harness.config.objective import TOKENIZER
from harness.config.run import RunConfig
from harness.config.sections import DataConfig
from harness.config.spec import SweepSpec, combinations
from harness.config.starting import FIELDS, INIT_FROM, StartError
from harness.core.text import listed

MAX_CHECKED = 2000  # combinations of compared and tuned values that are checked

# Values from the low end of a wide range of integers that are checked, besides the high end. The rules between fields
# are bounds, which fail at an end, and divisibility: a divisor over 1 does not divide two numbers in a row, and no
# number up to 2^62 is divisible by 64 numbers in a row.
CONSECUTIVE = 64

# Fields that a rule connects with another one, or that enable another one. Any other field is checked by itself.
_CONNECTED = (
    *("data.", "model.context_length", "model.emb_dim", "model.n_heads", "model.preset", "model.vocab_size"),
    *("model.init_from", "model.n_layers", "model.qkv_bias", "model.tie_embeddings"),
    *("train.batch_", "train.budget.", "train.device", "train.final_fraction", "train.sample.", "train.schedule"),
)

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
        self._sizes: dict[DataConfig, Mapping[str, int] | None] = {}  # tokens of each split, as far as they are known

    def runs_of(self, spec: SweepSpec) -> list[tuple[str, RunConfig]]:
        """Every arm with every tuned value or end of a range, as (where it is written, config).

        Fields that no rule connects with others keep their first value in combinations.
        """
        runs: list[tuple[str, RunConfig]] = []
        good = [
            self._try(spec, f"compare.{path}", {path: value}, runs)
            for path, values in spec.compare.items()
            for value in values
        ]
        for path, dimension in spec.tune.items():
            tried = (self._try(spec, f"tune.{path}", {path: value}, runs) for value in _checked_values(dimension))
            good.append(all(list(tried) if dimension.kind == "choice" else tried))  # one mistake per range is enough
        if not all(good):  # their combinations would repeat the same mistakes
            return runs
        inside = _tuned_combinations(spec)
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
        except StartError as error:
            for path, message in error.mistakes:
                if not where.endswith(path) and path != INIT_FROM:
                    message = f"with {arm_name(values)}: {path}: {message}"
                self.report(where, message)
            return False
        return True

    def starts(self, spec: SweepSpec) -> None:
        """Report runs from random weights whose model is not that of the weights which others start from.

        Args:
            spec: whose runs are valid.
        """
        if spec.weights_of is None or None not in spec.varied_weights:
            return
        varied = {*spec.compare, *spec.tune}
        fields = [name for name in FIELDS if f"model.{name}" not in varied]
        scratch = _sizes(spec.run_config({INIT_FROM: None}))
        for name in filter(None, spec.varied_weights):
            sizes = _sizes(spec.run_config({INIT_FROM: name}))
            different = [field for field in fields if sizes[field] != scratch[field]]
            if different:
                mine, theirs = (
                    ", ".join(f"{field}: {format_value(of[field])}" for field in different) for of in (scratch, sizes)
                )
                self.report(
                    f"{'compare' if INIT_FROM in spec.compare else 'tune'}.{INIT_FROM}",
                    f"found null, whose model has {{{mine}}}, beside {name}; allowed: under model the values of "
                    f"{name}, so that only the weights differ: {{{theirs}}}",
                )

    def splits(self, runs: Iterable[tuple[str, RunConfig]], split_sizes: SplitSizes) -> list[tuple[str, RunConfig]]:
        """Report contexts that are too long for a split; returns the runs whose corpus can be read."""
        runs = list(runs)
        sizes = self._sizes
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

    def budgets(self, runs: Iterable[tuple[str, RunConfig]]) -> None:
        """Report budgets that are smaller than one step, which would be exceeded by it."""
        seen: set[tuple[object, ...]] = set()
        for where, config in runs:
            key = (config.data, config.train.budget, config.sequences_per_step, config.model.context_length)
            if key in seen:
                continue
            seen.add(key)
            if message := self._too_small(config):
                connected = ("train.budget", "train.batch", "model.context_length", "data.")
                varied = where.partition(".")[2].startswith(connected)
                kind = next(kind for kind, value in config.train.budget.model_dump().items() if value is not None)
                self.report(where if varied else f"train.budget.{kind}", message)

    def _too_small(self, config: RunConfig) -> str:
        """What is wrong with a budget of less than one step; empty if nothing is."""
        budget, step = config.train.budget, config.tokens_per_step
        smaller = "or smaller batches"
        if budget.epochs is not None and (sizes := self._sizes.get(config.data)):
            windows = (sizes["train"] - 1) // config.model.context_length
            if windows and budget.epochs * windows + 1e-6 < config.sequences_per_step:
                least = config.sequences_per_step / windows
                return (
                    f"found {budget.epochs:g}, and the {config.sequences_per_step} windows of one step are {least:.3g} "
                    f"epochs of this text; allowed: at least {least:.3g}, {smaller}"
                )
        if budget.tokens is not None and budget.tokens < step:
            return f"found {budget.tokens}; allowed: at least the {step} tokens of one step, {smaller}"
        known = config.data.n_vocab is not None or config.model.vocab_size is not None
        if budget.flops is not None and known and budget.flops < (flops := step * config.flops_per_token):
            return f"found {budget.flops:g}; allowed: at least the {flops:.3g} FLOPs of one step, {smaller}"
        return ""

    def samples(self, spec: SweepSpec, runs: Iterable[tuple[str, RunConfig]]) -> None:
        """Report a pruner that would compare trials by samples of different windows or at different shares of a run."""
        paths = [path for path in ("model.context_length", TOKENIZER) if len(_values(spec.tune.get(path))) > 1]
        sampled = any(
            (sizes := self._sizes.get(config.data)) and config.samples_validation(sizes["val"]) for _, config in runs
        )
        if spec.study.pruner != "none" and paths and sampled:
            self.report(
                "train.eval_tokens",
                f"found {spec.base.train.eval_tokens} with study.pruner {spec.study.pruner} and a tuned {paths[0]}: "
                "each trial would be pruned by another sample of the text; allowed: null, or pruner none",
            )
        budget = next(kind for kind, value in spec.base.train.budget.model_dump().items() if value is not None)
        if spec.study.pruner != "none" and TOKENIZER in paths and budget not in ("tokens", "steps"):
            self.report(
                "study.pruner",
                f"found {spec.study.pruner} with a budget in {budget} and a tuned {TOKENIZER}: trials are compared at "
                "equal numbers of tokens, which are different shares of their budgets; allowed: none, or a budget in "
                "tokens or steps",
            )

    def effects(self, spec: SweepSpec, devices: Sequence[str] = ()) -> None:
        """Report arms that train alike, and tuned fields that change no loss.

        Args:
            spec: whose runs are valid.
            devices: of this machine; empty if it is not known where the sweep trains.
        """
        inside = _tuned_combinations(spec)
        if not spec.same_arms:
            alike: dict[tuple[Effect, ...], dict[str, Any]] = {}
            for arm in combinations(spec.compare):
                effects = tuple(self._effect(spec, {**arm, **values}, devices) for values in inside)
                other = alike.setdefault(effects, arm)
                if other is not arm:
                    self._report_alike(other, arm)
                    break  # one pair is enough
        for path, dimension in spec.tune.items():
            ends = [dimension.values[0], *dimension.values[1:]]
            if len(ends) > 1 and not self._acts(spec, path, ends, inside, devices):
                why = reason(path)
                self.report(
                    f"tune.{path}", f"changes no loss{f' ({why})' if why else ''}; allowed: fields that change one"
                )

    def _acts(
        self,
        spec: SweepSpec,
        path: str,
        ends: Sequence[Any],
        inside: Sequence[Mapping[str, Any]],
        devices: Sequence[str],
    ) -> bool:
        """Whether two values of a tuned field differ in effect, in any arm and with any values of the others."""
        for arm in combinations(spec.compare):
            for values in inside:
                try:
                    found = {self._effect(spec, {**arm, **values, path: value}, devices) for value in ends}
                except ValueError:  # no valid run; too many combinations to have checked it before
                    return True
                if len(found) > 1:
                    return True
        return False

    def _effect(self, spec: SweepSpec, values: Mapping[str, Any], devices: Sequence[str]) -> Effect:
        config = spec.run_config(values)
        sizes = self._sizes.get(config.data)
        return effect_of(config, sizes["train"] if sizes else None, devices)

    def _report_alike(self, one: Mapping[str, Any], other: Mapping[str, Any]) -> None:
        paths = [path for path in one if value_key(one[path]) != value_key(other[path])]
        where = f"compare.{paths[0]}" if len(paths) == 1 else "compare"
        names = [arm_name({path: arm[path] for path in paths}) for arm in (one, other)]
        why = listed(filter(None, dict.fromkeys(reason(path) for path in paths)))
        self.report(
            where,
            f"found {names[0]} and {names[1]}, which train the same runs{f' ({why})' if why else ''}; "
            "allowed: arms that differ, or equal values in all arms (an A/A sweep)",
        )

    def devices(self, runs: Iterable[tuple[str, RunConfig]], available: Sequence[str]) -> None:
        """Report devices that this machine does not have."""
        reported = set()
        for where, config in runs:
            name = config.train.device
            if name != "auto" and name not in available and name not in reported:
                reported.add(name)
                path = where if where.endswith("train.device") else "train.device"
                self.report(path, f"found {name}; allowed on this machine: {', '.join(['auto', *available])}")

    def vocabularies(self, runs: Iterable[tuple[str, RunConfig]], codec_of: Callable[[DataConfig], Codec]) -> None:
        """Report vocabulary sizes and prompts that do not fit, for runs whose vocabulary only the corpus tells."""
        seen = set()
        for where, config in runs:
            sample, rows = config.train.sample, config.model.vocab_size
            prompt = sample.prompt if sample.max_new_tokens else None
            if config.data.n_vocab is not None or (config.data, rows, prompt) in seen:
                continue
            seen.add((config.data, rows, prompt))
            try:
                codec = codec_of(config.data)
            except ValueError as error:  # its tokens may be cached although its tokenizer cannot be loaded
                self.report(getattr(error, "field", "data"), str(error))
                continue
            try:
                if config.model.init_from is None:  # else its tokens are compared with those of the weights
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


def _sizes(config: RunConfig) -> dict[str, Any]:
    return {**config.model.model_dump(), "vocab_size": config.vocab_size}


def _tuned_combinations(spec: SweepSpec) -> list[dict[str, Any]]:
    """Combinations of tuned values, about `MAX_CHECKED` with all arms; fields that no rule connects keep one value."""
    each = max(1, MAX_CHECKED // math.prod(len(values) for values in spec.compare.values()))
    checked = [
        _checked_values(dimension) if path.startswith(_CONNECTED) else dimension.values[:1]
        for path, dimension in spec.tune.items()
    ]
    return [dict(zip(spec.tune, values, strict=True)) for values in itertools.islice(itertools.product(*checked), each)]


def _values(dimension: Dimension | None) -> Sequence[Any]:
    return () if dimension is None else dimension.values


def _checked_values(dimension: Dimension) -> Sequence[Any]:
    """The values of a dimension that are checked: all of a choice, both ends of a range, of integers also a few."""
    if dimension.kind != "int_uniform":
        return dimension.values
    low, high = (int(value) for value in dimension.values)
    if high - low < MAX_CHECKED:
        return range(low, high + 1)
    return [*range(low, min(low + CONSECUTIVE, high)), high]
