"""YAML file (and `--set` values) → `SweepSpec`, or every mistake at once with its line.

Checking does not stop at the first mistake: first each section, then each compared and tuned value on top of the
written configuration, then all of them against the corpus. Messages say what was found and what is allowed.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from harness.config.checks import Codec, RunChecks, SplitSizes
from harness.config.dimensions import MAX_TEXT, Dimension, wrong_dimension
from harness.config.fields import (
    EXCLUSIVE,
    field_paths,
    format_value,
    is_field,
    override,
    value_key,
    without_secret_addresses,
)
from harness.config.fingerprint import WITHOUT_EFFECT
from harness.config.messages import explain, spec_paths
from harness.config.objective import TOKENIZER
from harness.config.other_names import did_you_mean
from harness.config.run import RunConfig
from harness.config.samplers import SAMPLERS
from harness.config.sections import PRESETS, DataConfig
from harness.config.single_values import wrong_values_alone
from harness.config.spec import TOP_FIELDS, SweepSpec
from harness.config.starting import StartError, WeightsOf, started_config
from harness.config.study import SeedRange, StudyConfig
from harness.config.tokenizers import with_short_forms, wrong_recipe
from harness.config.yaml import Document, parse_value, read_yaml
from harness.core.errors import Problem, SpecError
from harness.core.text import printable, shown, unknown

SLUG = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
MAX_ARMS = 1000
MAX_GRID = 100_000  # points
_OPTIONS_SHOWN = 20
_SECTIONS = ("data", "model", "train")  # whose fields can be compared and tuned
_OF_THE_MACHINE = ("train.device", "train.precision", "train.compile")  # depend on the device
_ANYWHERE = ("auto", "cpu")  # devices of every machine


def load_spec(
    path: str | Path,
    settings: Sequence[str] = (),
    split_sizes: SplitSizes | None = None,
    codec_of: Callable[[DataConfig], Codec] | None = None,
    devices: Callable[[], Sequence[str]] | None = None,
    weights_of: WeightsOf | None = None,
) -> SweepSpec:
    """Read, check and freeze a spec.

    Args:
        path: the YAML file.
        settings: `path=value` texts of `--set`, applied in order before checking.
        split_sizes: returns the tokens of each split, to find contexts longer than a split before training; may raise
            a ValueError with a `field` attribute. None: the corpus is not read.
        codec_of: returns the tokenizer of a corpus, for runs whose vocabulary it decides. Called only for corpora that
            `split_sizes` accepts.
        devices: returns the devices of this machine, the one that `auto` takes first, if the sweep trains here. Called
            only for specs that name a device, or that compare or tune how one is used. None: the sweep does not train
            here.
        weights_of: finds the weights that `model.init_from` names, which decide the sizes of the model. None: they are
            not looked for.

    Raises:
        SpecError: with every mistake that was found.
    """
    return _Loader(read_yaml(Path(path)), weights_of).load(settings, split_sizes, codec_of, devices)


class _Loader:
    def __init__(self, document: Document, weights_of: WeightsOf | None = None) -> None:
        self.document = document
        self.weights_of = weights_of
        self.values = document.values
        self.problems = list(document.problems)
        self.settings: dict[str, str] = {}  # dotted path → the `--set` text that set it

    def load(
        self,
        settings: Sequence[str],
        split_sizes: SplitSizes | None,
        codec_of: Callable[[DataConfig], Codec] | None,
        devices: Callable[[], Sequence[str]] | None,
    ) -> SweepSpec:
        self.apply_settings(settings)
        self.values = with_short_forms(without_secret_addresses(self.values))
        for section in self.values:
            if section not in TOP_FIELDS:
                found = did_you_mean(section, spec_paths(), "section")
                self.report(section, found or unknown(section, TOP_FIELDS, "section"))
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
        self.check_random_choices(study, tune)
        if study is not None and isinstance(study.seeds, SeedRange) and not compare:
            self.report("study.seeds", "found a range, and nothing is compared; allowed: a whole number")
        baseline = self.baseline(compare)
        if base is not None and study is not None:
            spec = SweepSpec(name, question, written, base, compare, baseline, tune, study, weights_of=self.weights_of)
            checks = RunChecks(self.report)
            runs = checks.runs_of(spec)
            if split_sizes is not None:
                good = checks.splits(runs, split_sizes)
                if codec_of is not None:
                    checks.vocabularies(good, codec_of)
            checks.budgets(runs)
            checks.samples(spec, runs)
            named = base.train.device not in _ANYWHERE or not {*compare, *tune}.isdisjoint(_OF_THE_MACHINE)
            available = tuple(devices()) if devices is not None and named else ()
            if available:
                checks.devices(runs, available)
            if not self.problems:
                checks.starts(spec)
            if not self.problems:
                checks.effects(spec, available)
        else:
            for mistake in wrong_values_alone(compare, tune):
                self.report(*mistake)
            if split_sizes is not None:
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
            self.report("name", "found 'audit', which `harness.report audit` reserves; allowed: another name")
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
        """Report a wrong preset once, and still check the rest of the section."""
        model = written.get("model")
        if isinstance(model, dict) and "preset" in model and str(model["preset"]) not in PRESETS:
            self.report("model.preset", unknown(str(model["preset"]), PRESETS, "preset"))
            written["model"] = {name: value for name, value in model.items() if name != "preset"}

    def run_config(self, written: Mapping[str, Any]) -> RunConfig | None:
        try:
            return started_config(written, self.weights_of)
        except ValidationError as error:
            mistakes = list(explain(error, RunConfig))
        except StartError as error:
            mistakes = list(error.mistakes)
        for path, message in mistakes:
            self.report(path, message)
        return None

    def study(self) -> StudyConfig | None:
        try:
            return StudyConfig.model_validate(self.values.get("study", {}))
        except ValidationError as error:
            for path, message in explain(error, StudyConfig):
                self.report(f"study.{path}".rstrip("."), message)
            return None

    def mapping(self, section: str, known_mistakes: Collection[str] = ()) -> dict[str, Any]:
        """A section whose keys are dotted paths of fields. Nested fields are a mistake, whose message has the path.

        Paths in `known_mistakes` have a message in another section; they are left out.
        """
        part = self.values.get(section)
        if part is None and section not in self.values:
            return {}
        if not isinstance(part, dict) or not part:
            self.report(section, f"found {shown(part)}; allowed: paths of fields, for example model.drop_rate")
            return {}
        known, good = field_paths(), {}
        for path, value in part.items():
            if path == "train.seed":
                self.report(f"{section}.{path}", "cannot vary, all arms share their seeds; allowed: study.seeds")
            elif path in WITHOUT_EFFECT:
                self.report(f"{section}.{path}", "does not change a run's numbers; allowed: one value, under train")
            elif path == "train.eval_tokens":
                message = "must be equal in all runs, whose curves it samples; allowed: one value, under train"
                self.report(f"{section}.{path}", message)
            elif is_field(path):
                good[path] = value
            elif path not in known_mistakes:
                self.report(f"{section}.{path}", self._unknown_path(path, known))
        return good

    @staticmethod
    def _unknown_path(path: str, known: Sequence[str]) -> str:
        section = [other for other in known if other.split(".")[0] == path.split(".")[0]]
        return did_you_mean(path, known) or unknown(path, section or _SECTIONS, "field" if section else "section")

    def compare(self) -> dict[str, tuple[Any, ...]]:
        compare: dict[str, tuple[Any, ...]] = {}
        for path, values in self.mapping("compare").items():
            where = f"compare.{path}"
            if path == TOKENIZER and (wrong := wrong_recipe(values)):
                self.report(where, wrong)
            elif not isinstance(values, list) or not values or any(isinstance(v, (dict, list)) for v in values):
                self.report(where, f"found {shown(values)}; allowed: a list of values, for example [0.0, 0.1]")
            elif any(isinstance(value, str) and len(value) > MAX_TEXT for value in values):
                self.report(where, f"found a text of over {MAX_TEXT} characters; allowed: shorter ones")
            else:
                compare[path] = tuple(values)
        distinct = {path: len({value_key(value) for value in values}) for path, values in compare.items()}
        if any(count > 1 for count in distinct.values()):  # else every arm is the same: an A/A sweep
            for path, values in list(compare.items()):
                if distinct[path] < len(values):
                    words = "different values, one arm each (or all values equal: an A/A sweep)"
                    self.report(f"compare.{path}", f"found {shown(list(values))}; allowed: {words}")
                    del compare[path]
        if math.prod(len(values) for values in compare.values()) > MAX_ARMS:
            self.report("compare", f"found {math.prod(map(len, compare.values()))} arms; allowed: at most {MAX_ARMS}")
            return {}
        return compare

    def check_exclusive(self, paths: Sequence[str]) -> None:
        """Report two compared or tuned paths that exclude each other."""
        for group in EXCLUSIVE:
            varied = [path for path in paths if path in group]
            for path in varied[1:]:
                section = "compare" if path in self.values.get("compare", {}) else "tune"
                self.report(f"{section}.{path}", f"found together with {varied[0]}; allowed: one of the two")

    def baseline(self, compare: Mapping[str, tuple[Any, ...]]) -> dict[str, Any]:
        compared = self.values.get("compare")
        mistaken = set(compared) - set(compare) if isinstance(compared, dict) else set()  # they have a message
        written = self.mapping("baseline", mistaken)
        if mistaken:
            return written
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
            self.report("baseline", f"has no value for {', '.join(missing)}; allowed: a value for every compared path")
        return written

    def tune(self, study: StudyConfig | None) -> dict[str, Dimension]:
        tune: dict[str, Dimension] = {}
        for path, written in self.mapping("tune").items():
            if wrong := wrong_dimension(path, written, study.sampler if study else None):
                self.report(f"tune.{path}", wrong)
            else:
                [(kind, values)] = written.items()
                tune[path] = Dimension(kind, tuple(values))
        points = math.prod(len(dimension.values) for dimension in tune.values())
        if study is not None and SAMPLERS[study.sampler].choices_only and points > MAX_GRID:
            self.report("tune", f"found a grid of {points:,} points; allowed: at most {MAX_GRID:,}")
        return tune

    def check_random_choices(self, study: StudyConfig | None, tune: Mapping[str, Dimension]) -> None:
        """Report a sampler that would draw every tuned dimension at random."""
        kinds = {dimension.kind for dimension in tune.values()}
        if study is not None and kinds == {"choice"} and SAMPLERS[study.sampler].random_choices:
            others = " | ".join(name for name, facts in SAMPLERS.items() if not facts.random_choices)
            message = "which draws choices at random, and every tuned dimension is one"
            self.report("study.sampler", f"found {study.sampler}, {message}; allowed: {others}")

    def check_corpus(self, split_sizes: SplitSizes) -> None:
        """Check the corpus even though other sections have mistakes."""
        try:
            data = DataConfig.model_validate(self.values.get("data"))
        except ValidationError:
            return
        RunChecks(self.report).sizes("", data, split_sizes)


def _one_of(options: Sequence[str]) -> str:
    return f"one of {', '.join(options[:_OPTIONS_SHOWN])}{', …' * (len(options) > _OPTIONS_SHOWN)}"
