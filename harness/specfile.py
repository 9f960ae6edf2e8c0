"""YAML file (and `--set` values) → `SweepSpec`, or every mistake at once with its line.

Nothing here stops at the first mistake: each section is checked by itself, then each compared and tuned value on
top of the written configuration, then all of them against the corpus. Messages say what was found and what is
allowed.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from pydantic import ValidationError

from harness.config import PRESETS, WITHOUT_EFFECT, DataConfig, RunConfig
from harness.fields import EXCLUSIVE, arm_name, field_paths, format_value, override, value_key
from harness.problems import Problem, SpecError, printable, shown, unknown
from harness.schema import explain, fitting_kinds
from harness.spec import KINDS, Dimension, SeedRange, StudyConfig, SweepSpec, combinations
from harness.yamlfile import Document, parse_value, read_yaml

SECTIONS = ("name", "question", "data", "model", "train", "compare", "baseline", "tune", "study")
SLUG = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
MAX_ARMS = 1000
MAX_CHECKED = 2000  # combinations of tuned values that are tried before training, of all arms together
MAX_GRID = 100_000  # points
MAX_TEXT = 200  # characters of a compared text: an arm, its study and its runs are named after it
_OPTIONS_SHOWN = 20

# Tokens of each split, by name, of the corpus that a data section names.
SplitSizes = Callable[[DataConfig], Mapping[str, int]]


class Codec(Protocol):
    """What turns text into the ids of a corpus."""

    @property
    def n_vocab(self) -> int:
        """How many ids there are."""

    def encode(self, text: str) -> list[int]:
        """The ids of a text; ValueError where it has none."""


def load_spec(
    path: Path,
    settings: Sequence[str] = (),
    split_sizes: SplitSizes | None = None,
    codec_of: Callable[[DataConfig], Codec] | None = None,
) -> SweepSpec:
    """Read, check and freeze a spec.

    Args:
        path: the YAML file.
        settings: `path=value` texts of `--set`, applied in order before checking.
        split_sizes: tells the tokens of each split, so that contexts longer than a split are found before
            training; it may raise a ValueError with a `field` attribute. None: the corpus is not looked at.
        codec_of: tells the ids of a corpus, for runs whose vocabulary is their corpus's: how many there are, and
            whether the prompt can be written with them. Asked only for what `split_sizes` accepts.

    Raises:
        SpecError: with every mistake that was found.
    """
    return _Loader(read_yaml(path)).load(settings, split_sizes, codec_of)


class _Loader:
    def __init__(self, document: Document) -> None:
        self.document = document
        self.values = document.values
        self.problems = list(document.problems)
        self.settings: dict[str, str] = {}  # dotted path → the `--set` text that set it

    def load(
        self,
        settings: Sequence[str],
        split_sizes: SplitSizes | None,
        codec_of: Callable[[DataConfig], Codec] | None,
    ) -> SweepSpec:
        self.apply_settings(settings)
        for section in self.values:
            if section not in SECTIONS:
                self.report(section, unknown(section, SECTIONS, "section"))
        name, question = self.name(), self.question()
        written: dict[str, Any] = {k: self.values[k] for k in ("data", "model", "train") if k in self.values}
        self.drop_unknown_preset(written)
        base = self.run_config(written)
        study = self.study()
        compare, tune = self.compare(), self.tune(study)
        for path in sorted(set(compare) & set(tune)):
            self.report(f"tune.{path}", "is compared too; allowed: compare it or tune it, not both")
        self.check_exclusive([*compare, *tune])
        if study is not None and study.seeds == 0 and not tune:
            self.report("study.seeds", "found 0; allowed: at least 1 where nothing is tuned")
        if study is not None and isinstance(study.seeds, SeedRange) and not compare:
            self.report("study.seeds", "found a range, and nothing is compared; allowed: a whole number")
        baseline = self.baseline(compare)
        if base is not None and study is not None:
            spec = SweepSpec(name, question, written, base, compare, baseline, tune, study)
            runs = self.check_runs(spec)
            if split_sizes is not None:
                good = self.check_splits(runs, split_sizes)
                if codec_of is not None:
                    self.check_vocabularies(good, codec_of)
        elif split_sizes is not None:
            self.check_corpus(split_sizes)
        if self.problems:
            raise SpecError(self.problems)
        return spec if codec_of is None else replace(spec, vocabulary_of=lambda data: codec_of(data).n_vocab)

    def report(self, path: str, message: str) -> None:
        setting = next((text for key, text in self.settings.items() if path == key or path.startswith(key + ".")), None)
        if setting is not None:
            self.problems.append(Problem(f"--set {setting}", 0, path, message))
        else:
            self.problems.append(Problem(self.document.file, self.document.line(path), path, message))

    # sections ------------------------------------------------------------------------------------------------

    def apply_settings(self, settings: Sequence[str]) -> None:
        for setting in settings:
            path, equals, text = setting.partition("=")
            path = path.strip()
            if not equals or not path:
                self.problems.append(Problem(f"--set {setting}", 0, "", "allowed: path=value"))
                continue
            try:
                value = parse_value(text)
            except SpecError as error:
                self.problems.append(Problem(f"--set {setting}", 0, path, error.problems[0].message))
                continue
            self.settings[path] = setting
            section, _, rest = path.partition(".")
            if section in ("compare", "baseline", "tune") and rest:  # their keys are dotted paths themselves
                part = self.values.setdefault(section, {})
                if isinstance(part, dict):
                    part[rest] = value
            elif section in ("data", "model", "train", "study") and rest:
                self.values = override(self.values, {path: value})
            else:
                self.values[path] = value

    def name(self) -> str:
        name = self.values.get("name")
        if not isinstance(name, str) or not SLUG.fullmatch(name):
            found = "nothing" if name is None else shown(name)
            self.report("name", f"found {found}; allowed: 1 to 64 of a-z 0-9 - _, beginning with a letter or digit")
        elif name == "audit":
            self.report("name", "found 'audit', which `python -m harness.report audit` means; allowed: another name")
        return str(name)

    def question(self) -> str:
        question = self.values.get("question", "")
        if not isinstance(question, str):
            self.report("question", f"found {shown(question)}; allowed: a text")
            return ""
        line = " ".join(question.split())
        if printable(line) != line:  # it is shown on terminals and in pages
            self.report("question", f"found {shown(line)}; allowed: a text without control characters")
        return line

    def drop_unknown_preset(self, written: dict[str, Any]) -> None:
        """A wrong preset is reported once, and the rest of the section is still checked."""
        model = written.get("model")
        if isinstance(model, dict) and "preset" in model and str(model["preset"]) not in PRESETS:
            self.report("model.preset", unknown(str(model["preset"]), PRESETS, "preset"))
            written["model"] = {name: value for name, value in model.items() if name != "preset"}

    def run_config(self, written: Mapping[str, Any]) -> RunConfig | None:
        try:
            return RunConfig.model_validate(written)
        except ValidationError as error:
            for path, message in explain(error, RunConfig):
                self.report(path, message)
            return None

    def study(self) -> StudyConfig | None:
        try:
            return StudyConfig.model_validate(self.values.get("study", {}))
        except ValidationError as error:
            for path, message in explain(error, StudyConfig):
                self.report(f"study.{path}".rstrip("."), message)
            return None

    def mapping(self, section: str) -> dict[str, Any]:
        """A section whose keys are dotted paths of fields; nested writing is refused with the right spelling."""
        part = self.values.get(section)
        if part is None and section not in self.values:
            return {}
        if not isinstance(part, dict) or not part:
            self.report(section, f"found {shown(part)}; allowed: paths of fields, for example model.drop_rate")
            return {}
        known, good = field_paths(), {}
        for path, value in part.items():
            if path == "train.seed":
                self.report(f"{section}.{path}", "seeds are what every arm is repeated over; allowed: study.seeds")
            elif path in WITHOUT_EFFECT:
                self.report(f"{section}.{path}", "changes no number of a run; allowed: a value under train")
            elif path == "train.eval_tokens":
                self.report(f"{section}.{path}", "decides what curves are measured on; allowed: a value under train")
            elif path in known:
                good[path] = value
            else:
                self.report(f"{section}.{path}", self._unknown_path(path, known))
        return good

    @staticmethod
    def _unknown_path(path: str, known: Sequence[str]) -> str:
        same_leaf = [other for other in known if other.rpartition(".")[2] == path.rpartition(".")[2]]
        below = [other for other in known if other.startswith(path + ".")]
        if same_leaf or below:
            return f"unknown field {shown(path)}; did you mean {' or '.join(below or same_leaf)}?"
        section = [other for other in known if other.split(".")[0] == path.split(".")[0]]
        return unknown(path, section or known)

    def compare(self) -> dict[str, tuple[Any, ...]]:
        compare: dict[str, tuple[Any, ...]] = {}
        for path, values in self.mapping("compare").items():
            where = f"compare.{path}"
            if not isinstance(values, list) or not values or any(isinstance(v, (dict, list)) for v in values):
                self.report(where, f"found {shown(values)}; allowed: a list of values, for example [0.0, 0.1]")
            elif any(isinstance(value, str) and len(value) > MAX_TEXT for value in values):
                self.report(where, f"found a text of over {MAX_TEXT} characters; allowed: shorter ones")
            else:
                compare[path] = tuple(values)
        distinct = {path: len({value_key(value) for value in values}) for path, values in compare.items()}
        if any(count > 1 for count in distinct.values()):  # else every arm is the same: an A/A sweep
            for path, values in list(compare.items()):
                if distinct[path] < len(values):
                    words = "values that differ, each is an arm (or the same everywhere: an A/A sweep)"
                    self.report(f"compare.{path}", f"found {shown(list(values))}; allowed: {words}")
                    del compare[path]
        if math.prod(len(values) for values in compare.values()) > MAX_ARMS:
            self.report("compare", f"found {math.prod(map(len, compare.values()))} arms; allowed: at most {MAX_ARMS}")
            return {}
        return compare

    def check_exclusive(self, paths: Sequence[str]) -> None:
        """Two paths of which one excludes the other cannot both be varied."""
        for group in EXCLUSIVE:
            varied = [path for path in paths if path in group]
            for path in varied[1:]:
                section = "compare" if path in self.values.get("compare", {}) else "tune"
                self.report(f"{section}.{path}", f"found beside {varied[0]}; allowed: one of the two")

    def baseline(self, compare: Mapping[str, tuple[Any, ...]]) -> dict[str, Any]:
        written = self.mapping("baseline")
        for path, value in written.items():
            if path not in compare:
                self.report(f"baseline.{path}", "is not compared; allowed: the paths under compare")
            elif isinstance(value, (dict, list)) or value_key(value) not in {
                value_key(option) for option in compare[path]
            }:
                options = [format_value(option) for option in compare[path]]
                self.report(f"baseline.{path}", f"found {shown(value)}; allowed: {_one_of(options)}")
        missing = [path for path in compare if path not in written]
        if written and missing:
            self.report("baseline", f"says nothing of {', '.join(missing)}; allowed: a value for every compared path")
        return written

    def tune(self, study: StudyConfig | None) -> dict[str, Dimension]:
        tune: dict[str, Dimension] = {}
        for path, written in self.mapping("tune").items():
            kind = next(iter(written)) if isinstance(written, dict) and len(written) == 1 else None
            where = f"tune.{path}"
            if kind is None:
                example = "{log_uniform: [3e-4, 3e-3]}"
                self.report(where, f"found {shown(written)}; allowed: one of {', '.join(KINDS)}, for example {example}")
            elif kind not in KINDS:
                self.report(where, unknown(str(kind), KINDS, "kind of dimension"))
            elif kind not in (fitting := fitting_kinds(path)):
                self.report(where, f"found {kind}, which {path} cannot have; allowed: {' | '.join(fitting)}")
            elif wrong := _wrong_values(kind, written[kind]):
                self.report(where, f"found {kind} {shown(written[kind])}; allowed: {wrong}")
            elif any(isinstance(value, str) and len(value) > MAX_TEXT for value in written[kind]):
                self.report(where, f"found a text of over {MAX_TEXT} characters; allowed: shorter ones")
            elif study is not None and study.sampler == "grid" and kind != "choice":
                self.report(where, f"found {kind} with study.sampler grid; allowed: choice, the points of the grid")
            else:
                tune[path] = Dimension(kind, tuple(written[kind]))
        points = math.prod(len(dimension.values) for dimension in tune.values())
        if study is not None and study.sampler == "grid" and points > MAX_GRID:
            self.report("tune", f"found a grid of {points:,} points; allowed: at most {MAX_GRID:,}")
        return tune

    # whole runs ----------------------------------------------------------------------------------------------

    def check_runs(self, spec: SweepSpec) -> list[tuple[str, RunConfig]]:
        """Every arm, and every tuned value or end of a range inside it, as (where it is written, config)."""
        runs: list[tuple[str, RunConfig]] = []
        singles = [(f"compare.{path}", {path: value}) for path, values in spec.compare.items() for value in values]
        singles += [(f"tune.{path}", {path: value}) for path, dim in spec.tune.items() for value in _tried(dim)]
        good = [self.try_run(spec, where, values, runs) for where, values in singles]
        if not all(good):  # combinations of wrong values would only repeat the same
            return runs
        each = max(1, MAX_CHECKED // math.prod(len(values) for values in spec.compare.values()))
        tuned = itertools.islice(itertools.product(*(_tried(dim) for dim in spec.tune.values())), each)
        inside = [dict(zip(spec.tune, values, strict=True)) for values in tuned]
        for arm in combinations(spec.compare):
            for values in inside:
                if len(arm) + len(values) > 1:
                    where = "compare" if arm else "tune"
                    if not self.try_run(spec, where, {**arm, **values}, runs):
                        break  # one example an arm is enough
        if not runs:
            runs.append(("", spec.base))
        return runs

    def try_run(
        self, spec: SweepSpec, where: str, values: Mapping[str, Any], runs: list[tuple[str, RunConfig]]
    ) -> bool:
        try:
            runs.append((where, spec.run_config(values)))
        except ValidationError as error:
            for path, message in explain(error, RunConfig):
                same = where.endswith(path)
                inner = message if same else f"with {arm_name(values)}: {f'{path}: ' if path else ''}{message}"
                self.report(where, inner)
            return False
        return True

    def check_splits(
        self, runs: Iterable[tuple[str, RunConfig]], split_sizes: SplitSizes
    ) -> list[tuple[str, RunConfig]]:
        """Report contexts that do not fit; gives the runs whose corpus can be had."""
        runs = list(runs)
        sizes: dict[DataConfig, Mapping[str, int] | None] = {}
        seen: set[tuple[DataConfig, int]] = set()
        for where, config in runs:
            if (config.data, config.model.context_length) in seen:
                continue
            seen.add((config.data, config.model.context_length))
            if config.data not in sizes:
                sizes[config.data] = self.measure(where, config.data, split_sizes)
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

    def check_vocabularies(
        self, runs: Iterable[tuple[str, RunConfig]], codec_of: Callable[[DataConfig], Codec]
    ) -> None:
        """Report sizes and prompts that do not fit the corpus's vocabulary, where the model has that."""
        seen = set()
        for where, config in runs:
            sample, rows = config.train.sample, config.model.vocab_size
            prompt = sample.prompt if sample.max_new_tokens else None
            if config.data.vocab == "full" or (config.data, rows, prompt) in seen:
                continue
            seen.add((config.data, rows, prompt))
            try:
                codec = codec_of(config.data)
            except ValueError as error:  # tokens may be cached, and their tokenizer gone
                self.report(getattr(error, "field", "data"), str(error))
                continue
            try:
                config.with_vocabulary(codec.n_vocab)
            except ValueError as error:
                self.report_inside(where, "model.vocab_size", str(error).partition(": ")[2])
            if prompt is not None:
                try:
                    codec.encode(prompt)
                except ValueError as error:
                    self.report_inside(where, "train.sample.prompt", f"{error}, or max_new_tokens 0")

    def report_inside(self, where: str, path: str, message: str) -> None:
        """Report a mistake of a whole run at the field, or where its values are compared or tuned."""
        self.report(where if where.endswith(path) else path, message)

    def check_corpus(self, split_sizes: SplitSizes) -> None:
        """With mistakes elsewhere, still say what is wrong with the corpus."""
        try:
            data = DataConfig.model_validate(self.values.get("data"))
        except ValidationError:
            return
        self.measure("", data, split_sizes)

    def measure(self, where: str, data: DataConfig, split_sizes: SplitSizes) -> Mapping[str, int] | None:
        try:
            return split_sizes(data)
        except ValueError as error:
            path = getattr(error, "field", "data")
            self.report(where if where.startswith(("compare.data", "tune.data")) else path, str(error))
            return None


def _one_of(options: Sequence[str]) -> str:
    return f"one of {', '.join(options[:_OPTIONS_SHOWN])}{', …' * (len(options) > _OPTIONS_SHOWN)}"


def _tried(dimension: Dimension) -> Sequence[Any]:
    """The values of a dimension that are tried before training: the ends of a range, all of a small whole one."""
    if dimension.kind == "int_uniform" and dimension.values[1] - dimension.values[0] < MAX_CHECKED:
        return range(int(dimension.values[0]), int(dimension.values[1]) + 1)
    return dimension.values


def _wrong_values(kind: str, values: object) -> str:
    """What is allowed, if `values` is not that; else an empty text."""
    if not isinstance(values, list):
        return "a list"
    if kind == "choice":
        if not values or any(isinstance(value, (dict, list)) for value in values):
            return "at least one plain value"
        return "" if len({value_key(v) for v in values}) == len(values) else "values that differ"
    numbers = [v for v in values if type(v) is int or (isinstance(v, float) and math.isfinite(v))]
    if len(values) != 2 or len(numbers) != 2:
        return "[low, high], two numbers"
    low, high = numbers
    if low >= high:
        return "low < high"
    if kind == "log_uniform" and low <= 0:
        return "low > 0, a logarithm has no value at 0"
    if kind == "int_uniform" and any(value != int(value) for value in numbers):
        return "two whole numbers"
    return ""
