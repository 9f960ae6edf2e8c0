"""A question about training a GPT, as written in one YAML file: what is compared, what is tuned, what is fixed.

`SweepSpec` is the validated, frozen result; `harness.config.load.load_spec` makes one from a file. A spec spans a set
of `Arm`s (every combination of the compared values) and, inside each arm, a space of tuned `Dimension`s.
"""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from harness.config.dimensions import Dimension
from harness.config.fields import arm_name, override, value_key
from harness.config.fingerprint import decisive, digest_of, training_code
from harness.config.labels import ArmLabels, arm_labels
from harness.config.objective import LOSS, Objective, search_objective
from harness.config.run import RunConfig, flatten
from harness.config.samplers import SAMPLERS, population, startup_trials
from harness.config.sections import DataConfig
from harness.config.starting import FIELDS, INIT_FROM, WeightsOf, started_config, written_fields
from harness.config.study import SeedRange, StudyConfig
from harness.config.writing import as_yaml, written_out
from harness.config.yaml import parse_yaml

# The top-level fields of a spec, with their descriptions for the reference.
TOP_FIELDS: Final[Mapping[str, str]] = {
    "name": "Required. Letters a-z, digits, `-` and `_`; it names the MLflow experiment and the report's folder.",
    "question": "The title of the report.",
    "data": "Required. The text and how it becomes tokens; exactly one of `corpus`, `path`, `url` and `mix`.",
    "model": "The GPT. By default GPT-2 124M with a context of 256 tokens.",
    "train": "Required. How the GPT is trained; exactly one of `batch_tokens` and `batch_size`.",
    "compare": "Path of a field → list of values. Every combination is an arm. Equal values make an A/A sweep.",
    "baseline": "Path of a compared field → value: the arm that the others are compared with. By default the first.",
    "tune": "Path of a field → `{uniform: [a, b]}`, `{log_uniform: [a, b]}`, `{int_uniform: [a, b]}` or "
    "`{choice: […]}`: what Optuna searches in each arm.",
    "study": "How an arm is searched, and on how many seeds its best configuration is confirmed.",
}

# Distance between the seeds of two arms with equal values (an A/A sweep); more than any sweep has seeds.
COPY_STRIDE: Final = 1_000_000


@dataclass(frozen=True)
class Arm:
    """One combination of the compared values. Its name is what tables, studies and runs call it.

    `copy` counts arms of equal values: 0 for the first, and for the only one outside A/A sweeps.
    """

    name: str
    values: Mapping[str, Any]
    copy: int = 0


@dataclass(frozen=True)
class SweepSpec:
    """A validated spec.

    Attributes:
        written: the data, model and train sections as they were written, overrides applied.
        base: these sections as a configuration. Its vocabulary size may still be unknown; that of `run_config` is not.
        vocabulary_of: returns the size of a vocabulary that only the corpus or the tokenizer's file tells
            (`DataConfig.n_vocab` is None). Without it, such runs have no digest and cannot be trained.
        weights_of: finds the weights that `model.init_from` names. Without it, their sizes are not known.
    """

    name: str
    question: str
    written: Mapping[str, Any]
    base: RunConfig
    compare: Mapping[str, tuple[Any, ...]]
    baseline: Mapping[str, Any]
    tune: Mapping[str, Dimension]
    study: StudyConfig
    vocabulary_of: Callable[[DataConfig], int] | None = field(default=None, compare=False, repr=False)
    weights_of: WeightsOf | None = field(default=None, compare=False, repr=False)

    @property
    def title(self) -> str:
        """`dropout: Does dropout help?`, or the name alone."""
        return f"{self.name}: {self.question}".rstrip(": ")

    def arms(self) -> tuple[Arm, ...]:
        """Every combination of the compared values, in the order of the file; one arm where nothing is compared.

        In an A/A sweep, whose arms are all equal, the second is called `drop_rate=0.1 (2)`, and so on.
        """
        every = list(combinations(self.compare))
        if not self.same_arms:
            return tuple(Arm(arm_name(values), values) for values in every)
        names = [f" ({copy + 1})" if copy else "" for copy in range(len(every))]
        return tuple(Arm(arm_name(values) + names[copy], values, copy) for copy, values in enumerate(every))

    @cached_property
    def labels(self) -> ArmLabels:
        """Short names of the arms, for people."""
        return arm_labels({arm.name: arm.values for arm in self.arms()})

    @property
    def same_arms(self) -> bool:
        """Whether this is an A/A sweep: several arms with equal values."""
        repeated = any(len(values) > 1 for values in self.compare.values())
        return repeated and all(len({value_key(v) for v in values}) == 1 for values in self.compare.values())

    def arm_config(self, arm: Arm, values: Mapping[str, Any], seed: int) -> RunConfig:
        """The configuration of one run of an arm: its compared values, its tuned `values`, and a seed.

        All arms share their seeds, and so initial weights and the order of data, so that they can be compared in
        pairs. Equal arms would then be bit-equal, so the copies of an A/A sweep have seeds of their own.
        """
        return self.run_config({**arm.values, **values, "train.seed": seed + COPY_STRIDE * arm.copy})

    @property
    def baseline_arm(self) -> Arm:
        """The arm that others are compared with: as written, else the first."""
        arms = self.arms()
        wanted = {path: value_key(value) for path, value in self.baseline.items()}
        for arm in arms:
            if wanted and all(value_key(arm.values[path]) == key for path, key in wanted.items()):
                return arm
        return arms[0]

    @property
    def common_context(self) -> int | None:
        """The shortest context of all arms, if they differ in it: every arm can give its targets that much."""
        lengths = {self.run_config(arm.values).model.context_length for arm in self.arms()}
        return min(lengths) if len(lengths) > 1 else None

    @property
    def trials(self) -> int:
        """Explore trials per arm: none where nothing is tuned, and for a grid at most its points (all by default)."""
        if not self.tune:
            return 0
        if not SAMPLERS[self.study.sampler].choices_only:
            return self.study.trials
        points = int(self.points)
        return min(self.study.trials, points) if "trials" in self.study.model_fields_set else points

    @property
    def points(self) -> float:
        """Different points of the search space; infinite with a dimension of real numbers."""
        return math.prod(dimension.size for dimension in self.tune.values())

    @property
    def startup_trials(self) -> int:
        """Trials of an arm that must finish before the sampler uses results; 0 for a sampler that uses none."""
        facts = SAMPLERS[self.study.sampler]
        if not self.tune or not facts.learns:
            return 0
        return self.study.startup_trials or startup_trials(self.trials, facts.most_startup_trials)

    @property
    def population(self) -> int:
        """Trials of one generation of CMA-ES; 0 for other samplers."""
        numeric = sum(dimension.kind != "choice" for dimension in self.tune.values())
        return population(numeric, self.trials) if self.study.sampler == "cmaes" and numeric else 0

    @property
    def unmodelled_trials(self) -> int:
        """Trials of an arm that are chosen without any result, if they run one after the other."""
        return min(self.trials, self.startup_trials + self.population)

    @cached_property
    def objective(self) -> Objective:
        """What the trials minimise, and whether arms can be compared by it."""
        tuned = {path: dimension.values for path, dimension in self.tune.items()}
        data = self.base.data
        held_out = data.holds_out("val") and (data.holds_out("test") or data.split.test == 0)
        return search_objective((arm.values for arm in self.arms()), tuned, held_out)

    def data_configs(self) -> tuple[DataConfig, ...]:
        """The different data sections of the runs: of every arm, with every tuned tokenizer and vocabulary.

        Weights of mixtures are left out (`DataConfig.texts`).
        """
        return tuple(dict.fromkeys(self.run_config(values).data.texts for values in self.data_values()))

    def data_values(self) -> list[dict[str, Any]]:
        """The values of every arm with every tuned choice of data and of weights to start from."""
        tuned = {path: one.values for path, one in self.tune.items() if path.startswith(("data.", INIT_FROM))}
        return [{**arm.values, **values} for arm in self.arms() for values in combinations(tuned)]

    @property
    def seeds(self) -> tuple[int, ...]:
        """Seeds of the confirm runs: fresh ones (the search used `train.seed`), the same in every arm.

        With a range of seeds, all that may be used.
        """
        first = first_seed(self.base.train.seed, self.tune)
        return tuple(range(first, first + self.looks[-1]))

    @property
    def looks(self) -> tuple[int, ...]:
        """Seeds per arm at which verdicts are read: one number, or for `{min: 3, max: 12}` 3, 6 and 12."""
        seeds = self.study.seeds
        if seeds is None:
            return (3 if self.compare or self.tune else 1,)
        if isinstance(seeds, int):
            return (seeds,)
        looks = [seeds.min]
        while looks[-1] < seeds.max:
            looks.append(min(2 * looks[-1], seeds.max))
        return tuple(looks)

    def noise_floor(self, seeds: int) -> SweepSpec:
        """A separate sweep, `<name>-noise`: the baseline alone, as written, on `seeds` seeds.

        The spread of its results is the noise that any difference has to exceed.
        """
        return SweepSpec(
            name=f"{self.name[:58]}-noise",
            question=f"How far do seeds alone move the baseline of {self.name}?",
            written=override(self.written, self.baseline_arm.values),
            base=self.run_config(self.baseline_arm.values),
            compare={},
            baseline={},
            tune={},
            study=self.study.model_copy(update={"seeds": seeds}),
            vocabulary_of=self.vocabulary_of,
            weights_of=self.weights_of,
        )

    def run_config(self, values: Mapping[str, Any]) -> RunConfig:
        """The configuration of one run: the written sections with `values` (dotted path → value) set.

        Raises:
            pydantic.ValidationError: the values make no valid run.
            StartError: there are no weights of that name, or the values do not fit them.
            ValueError: `model.vocab_size` is less than the corpus needs.
        """
        config = started_config(override(self.written, values), self.weights_of)
        if config.data.n_vocab is not None or self.vocabulary_of is None:
            return config
        return config.with_vocabulary(self.vocabulary_of(config.data))

    def start_folder(self, config: RunConfig) -> Path | None:
        """Where the weights that a run starts from are on this machine; None if it starts from random ones."""
        name = config.model.init_from
        return None if name is None or self.weights_of is None else self.weights_of(name).folder

    @property
    def varied_weights(self) -> tuple[Any, ...]:
        """The compared or tuned values of `model.init_from`; empty if it is fixed."""
        tuned = self.tune.get(INIT_FROM)
        return self.compare.get(INIT_FROM, ()) if tuned is None else tuned.values

    def identity(self, data_sha256: str = "") -> str:
        """SHA-256 of what decides the sweep's numbers: configuration, arms, search space, data, training code.

        The name, the question, the baseline, the numbers of trials and seeds and how often a run's state is saved are
        left out: a change of these continues the sweep; any other change begins a new one.
        """
        parts = {**_decisive(self.plain()), "data_sha256": data_sha256, "code": training_code()}
        if self.tune and self.objective != LOSS:  # earlier versions stored nats per token in these studies
            parts["objective"] = self.objective.metric
        if self.weights_of is not None and self.varied_weights:
            parts["weights"] = [name and self.weights_of(name).sha256 for name in self.varied_weights]
        return digest_of(parts)

    def changed_fields(self, stored: str) -> list[str]:
        """Dotted paths of the fields that decide a sweep's numbers and differ from another sweep's.

        Args:
            stored: the other sweep's `to_yaml`, maybe by an older version: fields that it lacks have their defaults.

        Raises:
            ValueError: the text is no spec.
        """
        document = parse_yaml(stored, "spec.yaml")
        other, sections = document.values, (*RunConfig.model_fields, "study")
        if document.problems or not all(isinstance(other.get(name), Mapping) for name in sections):
            raise ValueError("spec.yaml: is no spec")
        with contextlib.suppress(ValidationError):  # it has a field that no longer exists
            other |= written_out(RunConfig.model_validate({name: other[name] for name in RunConfig.model_fields}))
        theirs, ours = (dict(flatten(_decisive(plain))) for plain in (other, self.plain()))
        return [path for path in {**ours, **theirs} if ours.get(path) != theirs.get(path)]

    def plain(self) -> dict[str, Any]:
        """The resolved spec as plain values, every default written out; loading it again gives the same sweep."""
        sections = written_out(self.base)
        study = written_out(self.study)
        study["trials"] = self.trials or self.study.trials
        if not isinstance(self.study.seeds, SeedRange):
            study["seeds"] = len(self.seeds)
        if self.varied_weights and None not in self.varied_weights:  # each of them brings its own sizes
            fixed = {name for name in FIELDS if name not in written_fields(self.written)}
            sections["model"] = {name: value for name, value in sections["model"].items() if name not in fixed}
        plain: dict[str, Any] = {"name": self.name, "question": self.question, **sections}
        if self.compare:
            plain["compare"] = {path: list(values) for path, values in self.compare.items()}
            plain["baseline"] = dict(self.baseline_arm.values)
        if self.tune:
            plain["tune"] = {path: dimension.plain() for path, dimension in self.tune.items()}
        return {**plain, "study": study}

    def to_yaml(self) -> str:
        """The resolved spec as YAML text, with control characters and marks of the writing direction escaped."""
        return as_yaml(self.plain())


def first_seed(train_seed: int, tune: Mapping[str, Any]) -> int:
    """The first seed of the confirm runs: a search uses `train.seed` itself."""
    return train_seed + (1 if tune else 0)


def stored_first_seed(stored: str) -> int | None:
    """`first_seed` of the resolved spec of a stored sweep; None if it cannot be read."""
    try:
        plain = YAML(typ="safe", pure=True).load(stored)
        return first_seed(int(plain["train"]["seed"]), plain.get("tune") or {})
    except (YAMLError, LookupError, TypeError, ValueError, AttributeError, RecursionError):
        return None


def _decisive(plain: Mapping[str, Any]) -> dict[str, Any]:
    """A resolved spec without what `SweepSpec.identity` leaves out."""
    kept = {name: part for name, part in decisive(plain).items() if name not in ("name", "question", "baseline")}
    study = {name: plain["study"][name] for name in ("sampler", "pruner", "startup_trials") if name in plain["study"]}
    return {**kept, "study": study}


def combinations(compare: Mapping[str, tuple[Any, ...]]) -> Iterator[dict[str, Any]]:
    """Every combination of the compared values, the last path changing fastest."""
    for values in itertools.product(*compare.values()):
        yield dict(zip(compare, values, strict=True))
