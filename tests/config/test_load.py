from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from harness.config.load import load_spec
from harness.config.run import DataConfig, ModelConfig
from harness.config.spec import SweepSpec
from harness.core.errors import SpecError
from specs import GOOD, load, mistakes


def test_a_valid_spec_is_loaded(tmp_path: Path) -> None:
    spec = load(tmp_path, GOOD, tokens={"train": 4000, "val": 400, "test": 400})
    assert spec.name == "dropout"
    assert [arm.values for arm in spec.arms()] == [{"model.drop_rate": 0.0}, {"model.drop_rate": 0.1}]
    assert spec.baseline_arm.name == "drop_rate=0.1"
    assert spec.tune["train.learning_rate"].values == (3e-4, 3e-3)
    assert spec.base.train.budget.tokens == 400_000
    assert (spec.trials, spec.seeds) == (4, (2, 3, 4))


# Each line of GOOD, replaced by something wrong, and the message it must give.
WRONG = [
    ("name: dropout", "name: Drop Out", "1: name: found 'Drop Out'; allowed: 1 to 64 of a-z"),
    ("name: dropout", "name: ../../etc", "1: name: found '../../etc'; allowed"),
    ("name: dropout", "name: audit", "1: name: found 'audit', which"),
    ("name: dropout", "title: x", "1: name: found nothing; allowed"),
    (
        "question: Does dropout help?",
        r'question: "a\e[31m b"',
        r"2: question: found 'a\x1b[31m b'; allowed: a text without control characters",
    ),
    ("question: Does dropout help?", "question: [1]", "2: question: found [1]; allowed: a text"),
    ("sotu-1820}", "sotu-1820, path: x.txt}", "3: data: found corpus and path; allowed: exactly one source of"),
    ("sotu-1820}", "sotu-1820, sha256: '" + "a" * 64 + "'}", "3: data: found one of url and sha256; allowed: both"),
    (
        "sotu-1820}",
        "sotu-1820, tokenizer: gp2}",
        "3: data.tokenizer: unknown tokenizer 'gp2'; did you mean gpt2? allowed: byte, ",
    ),
    ("sotu-1820}", "sotu-1820, split: {val: 0.5, test: 0.5}}", "3: data.split: found val 0.5 + test 0.5; allowed"),
    ("data: {corpus: sotu-1820}", "data: sotu", "3: data: found 'sotu'; allowed: the fields corpus, path, url"),
    ("emb_dim: 16", "emb_dim: 17", "4: model.emb_dim: found 17 with n_heads 2; allowed: its multiples"),
    ("emb_dim: 16", "emb_dim: '16'", "4: model.emb_dim: found '16'; allowed: a whole number at least 1"),
    ("emb_dim: 16", "emb_dim: 16.5", "4: model.emb_dim: found 16.5; allowed: a whole number"),
    ("emb_dim: 16", "emb_dim: true", "4: model.emb_dim: found true; allowed: a whole number"),
    ("emb_dim: 16", "emb_dim: 16, qkv_bias: yes", "4: model.qkv_bias: found 'yes'; allowed: true or false"),
    ("emb_dim: 16", "emb_dim: 16, droprate: 0", "4: model.droprate: unknown field 'droprate'; did you mean drop_rate?"),
    ("emb_dim: 16", "emb_dim: 16, learning_rate: 1", "4: model.learning_rate: unknown field 'learning_rate'; did you "),
    ("emb_dim: 16", "emb_dim: 16, drop_rate: 1.0", "4: model.drop_rate: found 1.0; allowed: a number at least 0 and u"),
    ("emb_dim: 16", "emb_dim: 16, drop_rate: .nan", "4: model.drop_rate: found nan; allowed: a number"),
    ("emb_dim: 16", "emb_dim: 16, vocab_size: 9", "4: model.vocab_size: found 9; allowed: at least the 50257 of tok"),
    ("emb_dim: 16", "preset: gpt2-124", "4: model.preset: unknown preset 'gpt2-124'; did you mean gpt2-124m?"),
    ("emb_dim: 16", "preset: [gpt2-124m]", "4: model.preset: unknown preset "),
    ("{tokens: 400_000}", "{tokens: 400_000, epochs: 2}", "6: train.budget: found tokens and epochs; allowed: exactly"),
    ("{tokens: 400_000}", "{}", "6: train.budget: found none; allowed: exactly one budget of tokens | epochs"),
    ("  budget: {tokens: 400_000}\n", "", "5: train.budget: found nothing; allowed"),
    ("batch_tokens: 128", "batch_tokens: 100", "7: train.batch_tokens: found 100 with model.context_length 32; allow"),
    ("batch_tokens: 128", "batch_size: 4\n  batch_tokens: 128", "5: train: found batch_tokens and batch_size; allowed"),
    (
        "batch_tokens: 128",
        "batch_tokens: 128\n  batch_tokens: 64",
        "8: train.batch_tokens: found twice (first on line 7",
    ),
    (
        "batch_tokens: 128",
        "batch_tokens: 128\n  compile: yes",
        "8: train.compile: found 'yes'; allowed: auto | true | false",
    ),
    (
        "batch_tokens: 128",
        "batch_tokens: 128\n  optimizer: adam",
        "8: train.optimizer: found 'adam'; allowed: adamw | ",
    ),
    (
        "batch_tokens: 128",
        "batch_tokens: 128\n  grad_clip: 0",
        "8: train.grad_clip: found 0; allowed: a number over 0,",
    ),
    (
        "batch_tokens: 128",
        "batch_tokens: 128\n  sample: {propmt: x}",
        "8: train.sample.propmt: unknown field 'propmt';",
    ),
    ("model.drop_rate: [0.0, 0.1]", "model.droprate: [0]", "9: compare.model.droprate: unknown field 'model.droprate'"),
    ("model.drop_rate: [0.0, 0.1]", "drop_rate: [0]", "9: compare.drop_rate: unknown field 'drop_rate'; did you mean "),
    ("model.drop_rate: [0.0, 0.1]", "train.budget: [1]", "9: compare.train.budget: unknown field 'train.budget'; did "),
    (
        "model.drop_rate: [0.0, 0.1]",
        "train.checkpoint_every: [1, 2]",
        "9: compare.train.checkpoint_every: does not change a run's numbers; allowed: one value, under train",
    ),
    ("model.drop_rate: [0.0, 0.1]", "train.seed: [1, 2]", "9: compare.train.seed: cannot vary, all arms share their"),
    ("model.drop_rate: [0.0, 0.1]", "model.drop_rate: []", "9: compare.model.drop_rate: found []; allowed: a list of"),
    ("model.drop_rate: [0.0, 0.1]", "model.drop_rate: 0.1", "9: compare.model.drop_rate: found 0.1; allowed: a list"),
    ("model.drop_rate: [0.0, 0.1]", "model.drop_rate: [0.1, 0.1, 0.2]", "9: compare.model.drop_rate: found [0.1, 0.1,"),
    ("seeds: 3", "seeds: {min: 3}", "13: study.seeds.max: found nothing; allowed: a whole number from 4 to 1000"),
    ("seeds: 3", "seeds: {min: 3, max: 3}", "13: study.seeds.max: found 3; allowed: a whole number from 4 to 1000"),
    ("seeds: 3", "seeds: {min: 1, max: 3}", "13: study.seeds.min: found 1; allowed: a whole number from 2 to 1000"),
    ("seeds: 3", "seeds: {from: 1, max: 3}", "13: study.seeds.from: unknown field; allowed: min and max"),
    (
        "seeds: 3",
        "seeds: [3]",
        "13: study.seeds: found [3]; allowed: a whole number from 0 to 1000, or {min: 3, max: 12}",
    ),
    ("seeds: 3", "seeds: 2.5", "13: study.seeds: found 2.5; allowed: a whole number from 0 to 1000"),
    ("model.drop_rate: [0.0, 0.1]", "model.drop_rate: [0.1, 1.5]", "9: compare.model.drop_rate: found 1.5; allowed: "),
    ("[0.0, 0.1]", "[0.0, 0.1]\n  model.context_length: [48]", "10: compare.model.context_length: with context_leng"),
    ("baseline: {model.drop_rate: 0.1}", "baseline: {model.drop_rate: 0.3}", "10: baseline.model.drop_rate: found 0.3"),
    ("baseline: {model.drop_rate: 0.1}", "baseline: {model.emb_dim: 16}", "10: baseline.model.emb_dim: is not compar"),
    ("log_uniform: [3e-4, 3e-3]", "log_uniform: [0, 1]", "12: tune.train.learning_rate: found log_uniform [0, 1]; all"),
    ("log_uniform: [3e-4, 3e-3]", "uniform: [2, 1]", "12: tune.train.learning_rate: found uniform [2, 1]; allowed: l"),
    ("log_uniform: [3e-4, 3e-3]", "uniform: [1]", "12: tune.train.learning_rate: found uniform [1]; allowed: [low,"),
    (
        "train.learning_rate: {log_uniform: [3e-4, 3e-3]}",
        "model.n_layers: {int_uniform: [1.5, 3]}",
        "12: tune.model.n_layers: found int_uniform [1.5, 3",
    ),
    ("log_uniform: [3e-4, 3e-3]", "choice: []", "12: tune.train.learning_rate: found choice []; allowed: at least on"),
    ("log_uniform: [3e-4, 3e-3]", "choices: [1]", "12: tune.train.learning_rate: unknown kind of dimension 'choices'"),
    ("{log_uniform: [3e-4, 3e-3]}", "[3e-4, 3e-3]", "12: tune.train.learning_rate: found [0.0003, 0.003]; allowed: o"),
    ("log_uniform: [3e-4, 3e-3]", "uniform: [-1, 1]", "12: tune.train.learning_rate: found -1; allowed: a number ove"),
    (
        "train.learning_rate: {log_uniform: [3e-4, 3e-3]}",
        "model.n_layers: {uniform: [1, 4]}",
        "12: tune.model.n_layers: found uniform, which model.n_layers cannot have; allowed: int_uniform | choice",
    ),
    (
        "train.learning_rate: {log_uniform: [3e-4, 3e-3]}",
        "model.qkv_bias: {uniform: [0, 1]}",
        "12: tune.model.qkv_bias: found uniform, which model.qkv_bias cannot have; allowed: choice",
    ),
    (
        "log_uniform: [3e-4, 3e-3]",
        "int_uniform: [1, 3]",
        "12: tune.train.learning_rate: found int_uniform, which train.lea",
    ),
    (
        "train.learning_rate: {log_uniform: [3e-4, 3e-3]}",
        "model.emb_dim: {int_uniform: [16, 18]}",
        "12: tune.model.emb_dim: found 17 with n_heads 2; allowed: its multiples",
    ),
    (
        "[0.0, 0.1]",
        "[0.0, 0.1]\n  train.batch_size: [1]\n  train.batch_tokens: [128]",
        "11: compare.train.batch_tokens: found together with train.batch_size; allowed: one of the two",
    ),
    (
        "baseline: {model.drop_rate: 0.1}",
        "baseline: {model.drop_rate: {a: 1}}",
        "10: baseline.model.drop_rate: found {'a': 1}; allowed: one of",
    ),
    (
        "question: Does dropout help?",
        "question: 2024-13-45",
        "2: question: found '2024-13-45', which is not a valid times",
    ),
    (
        "batch_tokens: 128",
        "batch_tokens: 128\n  seed: 9223372036854775807",
        "8: train.seed: found 9223372036854775807; allowed: ",
    ),
    ("train.learning_rate: {log", "model.drop_rate: {log", "12: tune.model.drop_rate: is compared too; allowed: comp"),
    ("{trials: 4, seeds: 3}", "{trials: 0}", "13: study.trials: found 0; allowed: a whole number at least 1"),
    ("{trials: 4, seeds: 3}", "{sampler: tpee}", "13: study.sampler: found 'tpee'; allowed: tpe | random | grid |"),
    ("{trials: 4, seeds: 3}", "{sampler: grid}", "12: tune.train.learning_rate: found log_uniform with study.sampl"),
    ("study: {", "studdy: {", "13: studdy: unknown section 'studdy'; did you mean study?"),
]


@pytest.mark.parametrize(
    ("old", "new", "message"), WRONG, ids=[f"{i}-{new[:30]}" for i, (_, new, _) in enumerate(WRONG)]
)
def test_each_mistake_is_named_with_its_line(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in GOOD
    found = mistakes(tmp_path, GOOD.replace(old, new))
    assert any(line.startswith(f"spec.yaml:{message}") for line in found), found
    assert len(found) <= 2, found  # one mistake, and at most one that follows from it


def test_a_sweep_without_runs_is_a_mistake(tmp_path: Path) -> None:
    nothing = GOOD[: GOOD.index("tune:")] + "study: {seeds: 0}\n"
    assert mistakes(tmp_path, nothing) == [
        "spec.yaml:11: study.seeds: found 0; allowed: at least 1 where nothing is tuned"
    ]
    assert load(tmp_path, GOOD.replace("seeds: 3", "seeds: 0")).seeds == ()  # a search without confirmation


def test_a_misspelled_compared_field_gives_one_message(tmp_path: Path) -> None:
    for text in (
        GOOD.replace("model.drop_rate: [", "model.drop_rat: ["),
        GOOD.replace("model.drop_rate: ", "model.drop_rat: "),
    ):
        (found,) = mistakes(tmp_path, text)
        assert "compare.model.drop_rat: " in found and "baseline" not in found


def test_all_mistakes_are_reported_together(tmp_path: Path) -> None:
    text = GOOD
    for old, new in [("emb_dim: 16", "emb_dim: x"), ("400_000", "-1"), ("3e-4, 3e-3", "3e-3, 3e-4"), ("seeds", "seed")]:
        text = text.replace(old, new)
    found = mistakes(tmp_path, text)
    assert [line.split(" ")[1] for line in found] == [
        "model.emb_dim:",
        "train.budget.tokens:",
        "tune.train.learning_rate:",
        "study.seed:",
    ]


def test_a_context_that_is_too_long_is_reported_for_each_split(tmp_path: Path) -> None:
    text = GOOD.replace("model.drop_rate: [0.0, 0.1]", "model.context_length: [32, 64]").replace(
        "baseline: {model.drop", "#"
    )
    assert load(tmp_path, text, tokens={"train": 66, "val": 65, "test": 0})
    assert mistakes(tmp_path, text, tokens={"train": 65, "val": 64, "test": 64}) == [
        "spec.yaml:9: compare.model.context_length: found 64; allowed: under 64, the tokens of the test split "
        "(a window needs one token more than its length)",
        "spec.yaml:9: compare.model.context_length: found 64; allowed: under 64, the tokens of the val split "
        "(a window needs one token more than its length)",
    ]


def test_mistakes_of_the_corpus_are_reported_with_the_others(tmp_path: Path) -> None:
    class Wrong(ValueError):
        field = "data.corpus"

    def sizes(_: DataConfig) -> Mapping[str, int]:
        raise Wrong("found 'sotu-1820'; allowed: nothing today")

    path = tmp_path / "spec.yaml"
    path.write_text(GOOD.replace("emb_dim: 16", "emb_dim: x"), "utf-8")
    with pytest.raises(SpecError) as caught:
        load_spec(path, (), sizes)
    assert [problem.field for problem in caught.value.problems] == ["data.corpus", "model.emb_dim"]


def test_settings_override_fields_and_clear_those_they_exclude(tmp_path: Path) -> None:
    spec = load(
        tmp_path,
        GOOD,
        "train.budget.steps=50_0",
        "train.batch_size=3",
        "compare.model.drop_rate=[0.1, 0.2, 0.3]",
        "tune.train.learning_rate={choice: [1e-3, 2e-3]}",
        "study.trials=2",
    )
    assert (spec.base.train.budget.steps, spec.base.train.budget.tokens) == (500, None)
    assert (spec.base.train.batch_size, spec.base.train.batch_tokens) == (3, None)
    assert len(spec.arms()) == 3
    assert spec.tune["train.learning_rate"].kind == "choice"
    assert spec.trials == 2


def test_mistakes_in_settings_name_the_setting(tmp_path: Path) -> None:
    assert mistakes(tmp_path, GOOD, "train.seed=one", "nothing", "model.heads=2", "train.batch_tokens=[") == [
        "--set model.heads=2: model.heads: unknown field 'heads'; did you mean n_heads? allowed: "
        + ", ".join(sorted([*ModelConfig.model_fields, "preset"])),
        "--set nothing: allowed: path=value",
        "--set train.batch_tokens=[: train.batch_tokens: is not valid YAML: expected the node content, but found "
        "'<stream end>'",
        "--set train.seed=one: train.seed: found 'one'; allowed: a whole number at least 0 and at most 4611686018427387904",  # noqa: E501
    ]


def test_loading_the_resolved_spec_gives_the_same_sweep(tmp_path: Path) -> None:
    for text in (GOOD, GOOD.replace("batch_tokens: 128", "batch_tokens: 128\n  grad_clip: null")):
        spec = load(tmp_path, text)
        again = load(tmp_path, spec.to_yaml())
        assert again.plain() == spec.plain()
        assert again.identity() == spec.identity()
        assert again.base == spec.base
        assert (again.trials, again.seeds, again.baseline_arm) == (spec.trials, spec.seeds, spec.baseline_arm)


def test_mistakes_are_reported_without_importing_torch_optuna_or_mlflow(tmp_path: Path) -> None:
    path = tmp_path / "spec.yaml"
    path.write_text(GOOD.replace("emb_dim: 16", "emb_dim: x"), "utf-8")
    code = (
        "import sys, runpy\n"
        f"sys.argv = ['sweep', {str(path)!r}]\n"
        "try: runpy.run_module('harness.sweep', run_name='__main__')\n"
        "except SystemExit as end: code = end.code\n"
        "print(code, sorted({'torch', 'optuna', 'mlflow'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.strip() == "2 []"
    assert "spec.yaml:4: model.emb_dim: found 'x'; allowed: a whole number at least 1" in done.stderr


# The corpus's own vocabulary

OWN = GOOD.replace("corpus: sotu-1820", "corpus: sotu-1820, vocab: corpus")


class Letters:
    """A corpus of 300 tokens in which there is no Z."""

    n_vocab = 300

    def encode(self, text: str) -> list[int]:
        if "Z" in text:
            raise ValueError("found 'Z', which is not encodable; allowed: a text without it")
        return [0]


def load_own(tmp_path: Path, text: str, *settings: str) -> SweepSpec:
    path = tmp_path / "spec.yaml"
    path.write_text(text, "utf-8")
    sizes = {"train": 4000, "val": 400, "test": 400}
    return load_spec(path, settings, lambda _: sizes, lambda _: Letters())


def test_every_run_gets_the_size_of_its_corpus_vocabulary(tmp_path: Path) -> None:
    spec = load_own(tmp_path, OWN)
    for arm in spec.arms():
        config = spec.arm_config(arm, {"train.learning_rate": 1e-3}, 3)
        assert config.resolved()["model"]["vocab_size"] == 300
    assert spec.noise_floor(2).run_config({}).vocab_size == 300
    assert "vocab_size" not in spec.to_yaml() and "vocab: corpus" in spec.to_yaml()
    assert load_own(tmp_path, spec.to_yaml()).identity() == spec.identity()
    both = load_own(tmp_path, GOOD, "compare={data.vocab: [full, corpus]}", "baseline={data.vocab: full}")
    sizes = {arm.name: both.run_config(arm.values).vocab_size for arm in both.arms()}
    assert sizes == {"vocab=full": 50257, "vocab=corpus": 300}
    unknown = load(tmp_path, OWN)  # without the corpus
    with pytest.raises(ValueError, match=r"found nothing with data\.vocab corpus"):
        unknown.run_config({}).digest()


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (
            ["model.vocab_size=299"],
            [
                "--set model.vocab_size=299: model.vocab_size: found 299; allowed: at least the 300 "
                "tokens that occur in the corpus"
            ],
        ),
        (
            ["train.sample.prompt=Zoo"],
            [
                "--set train.sample.prompt=Zoo: train.sample.prompt: found 'Z', which is not encodable; "
                "allowed: a text without it, or max_new_tokens 0"
            ],
        ),
        (
            ["compare={train.sample.prompt: [a, Z]}", "baseline={train.sample.prompt: a}"],
            [
                "--set compare={train.sample.prompt: [a, Z]}: compare.train.sample.prompt: found 'Z', which is "
                "not encodable; allowed: a text without it, or max_new_tokens 0"
            ],
        ),
    ],
)
def test_vocabulary_sizes_and_prompts_that_do_not_fit_the_corpus_are_mistakes(
    settings: list[str], expected: list[str], tmp_path: Path
) -> None:
    with pytest.raises(SpecError) as caught:
        load_own(tmp_path, OWN, *settings)
    assert str(caught.value).splitlines() == expected
    if "prompt=" in settings[0]:
        load_own(tmp_path, GOOD, *settings)  # GPT-2's full vocabulary encodes any text


def test_without_samples_any_prompt_is_allowed(tmp_path: Path) -> None:
    load_own(tmp_path, OWN, "train.sample.prompt=Zoo", "train.sample.max_new_tokens=0")


@pytest.mark.parametrize("section", ["compare", "tune"])
def test_eval_tokens_cannot_be_compared_or_tuned(section: str, tmp_path: Path) -> None:
    value = {"compare": "[64, 128]", "tune": "{choice: [64, 128]}"}[section]
    assert mistakes(tmp_path, GOOD, f"{section}.train.eval_tokens={value}")[-1] == (
        f"--set {section}.train.eval_tokens={value}: {section}.train.eval_tokens: must be equal in all runs, "
        "whose curves it samples; allowed: one value, under train"
    )


def test_a_tokenizer_that_cannot_be_loaded_is_reported_as_a_mistake(tmp_path: Path) -> None:
    class Unavailable(ValueError):
        field = "data.tokenizer"

    def codec(_: DataConfig) -> Letters:
        raise Unavailable("found none; allowed: an install")

    path = tmp_path / "spec.yaml"
    path.write_text(OWN, "utf-8")
    with pytest.raises(SpecError) as caught:
        load_spec(path, (), lambda _: {"train": 4000, "val": 400, "test": 400}, codec)
    assert {(problem.field, problem.message) for problem in caught.value.problems} == {
        ("data.tokenizer", "found none; allowed: an install")
    }


def test_a_mistake_in_a_merged_field_has_the_line_where_it_is_written(tmp_path: Path) -> None:
    merged = """name: merge
data: {corpus: sotu-1820, tokenizer: byte}
model: {context_length: 32, emb_dim: 16, n_heads: 2, n_layers: 1}
train:
  budget: &b
    steps: 2
  batch_size: 2
  eval_every:
    <<: *b
"""
    spec = load(tmp_path, merged)
    assert (spec.base.train.budget.steps, spec.base.train.eval_every.steps) == (2, 2)
    with pytest.raises(SpecError) as caught:
        load(tmp_path, merged.replace("steps: 2", "steps: two"))
    for problem, path in zip(caught.value.problems, ("train.budget.steps", "train.eval_every.steps"), strict=True):
        assert (problem.line, problem.field) == (6, path)


def test_a_setting_may_begin_with_a_star_and_loses_no_text(tmp_path: Path) -> None:
    spec = load(tmp_path, GOOD, "data.path=*.txt", "question=|\n  Is it\n  better?")
    assert spec.base.data.path == ("*.txt",)
    assert spec.question == "Is it better?"
    for setting in ("question=Is run #2 better?", "train.seed=1\nx: 2", "train.budget={steps: 1, steps: 2}"):
        with pytest.raises(SpecError):
            load(tmp_path, GOOD, setting)


def test_a_mistake_in_a_section_hides_none_in_compared_and_tuned_values(tmp_path: Path) -> None:
    compared = "compare:\n  train.optimizer: [sgd, adamw]\n  model.n_heads: [2, 3]\n  model.drop_rate: [0.0, 2.0]\n"
    text = GOOD.replace("n_layers: 1", "n_layers: -1").replace("compare:\n  model.drop_rate: [0.0, 0.1]\n", compared)
    text = text.replace("baseline: {model.drop_rate: 0.1}\n", "")
    text = text.replace("tune:\n", "tune:\n  train.weight_decay: {uniform: [-1.0, 0.1]}\n")
    assert mistakes(tmp_path, text) == [
        "spec.yaml:4: model.n_layers: found -1; allowed: a whole number at least 1",
        "spec.yaml:9: compare.train.optimizer: found 'sgd'; allowed: adamw | muon",
        "spec.yaml:11: compare.model.drop_rate: found 2.0; allowed: a number at least 0 and under 1",
        "spec.yaml:13: tune.train.weight_decay: found -1.0; allowed: a number at least 0",
    ]  # 3 heads may fit the width that the section will have
