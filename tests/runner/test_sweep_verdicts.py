"""Verdicts of whole sweeps: rounds of seeds, A/A arms, vocabularies, and a test split that decides nothing."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pandas as pd
import pytest

from harness.analysis.comparison import undecided_arms
from harness.config.run import DataConfig
from harness.data import load_corpus
from harness.report import compare, load_runs
from in_process import call
from sandbox import SPEC, Sandbox

pytestmark = pytest.mark.slow

ROUNDS = SPEC[: SPEC.index("compare:")] + (
    "compare: {model.drop_rate: [0.0, 0.02, 0.5]}\nstudy: {seeds: {min: 2, max: 5}}\n"
)


def runs_of(sandbox: Sandbox, name: str = "tiny") -> pd.DataFrame:
    return load_runs(name, f"sqlite:///{sandbox.folder}/mlruns/mlflow.db")


def test_only_undecided_arms_get_more_seeds(tmp_path: Path) -> None:
    sandbox = Sandbox(tmp_path, ROUNDS)
    done = call(sandbox)
    assert done.returncode == 0, done.stderr
    assert "3 arms × 2 to 5 seeds = 6 to 15 runs" in done.stdout
    runs = runs_of(sandbox)
    looks, baseline, arms = (2, 4, 5), "drop_rate=0.0", ["drop_rate=0.0", "drop_rate=0.02", "drop_rate=0.5"]
    seeds = {arm: sorted(runs.loc[runs["arm"] == arm, "seed"]) for arm in arms}
    assert all(seeds[arm] == list(range(1, len(seeds[arm]) + 1)) and len(seeds[arm]) in looks for arm in arms)
    assert len(seeds[baseline]) == max(len(seeds[arm]) for arm in arms)
    for arm in arms[1:]:
        for look in looks:
            rows = runs[runs["seed"] <= look].to_dict("records")
            still = arm in undecided_arms(rows, baseline, arms, 0.02, looks)
            # An arm got more seeds as long as it was undecided.
            assert still == (len(seeds[arm]) > look or (look == looks[-1] and still)), (arm, look)
    said = re.findall(r"^undecided after (\d) seeds: (.*); up to (\d) seeds$", done.stdout, re.MULTILINE)
    assert [int(after) for _, _, after in said] == [look for look in looks[1:] if look <= len(seeds[baseline])]

    # A notebook gives the report's answer.
    written = pd.read_csv(tmp_path / "reports" / "tiny" / "comparison.csv")
    compared = pd.read_csv(io.StringIO(compare(runs).to_csv(index=False)))
    pd.testing.assert_frame_equal(compared, written.drop(columns="label"))

    assert call(sandbox).returncode == 0
    assert len(runs_of(sandbox)) == len(runs)  # the verdicts are the same, so nothing is added


def test_a_sweep_in_rounds_resumes(tmp_path: Path) -> None:
    whole, parts = Sandbox(tmp_path / "whole", ROUNDS), Sandbox(tmp_path / "parts", ROUNDS)
    assert call(whole).returncode == 0
    # A sweep with two seeds trains the first round of the sweep in rounds.
    assert call(parts, "tiny.yaml", "--set", "study.seeds=2").returncode == 0
    assert call(parts).returncode == 0
    columns = ["arm", "seed", "val/loss", "test/loss"]
    ends = [runs_of(one)[columns].sort_values(columns[:2], ignore_index=True) for one in (whole, parts)]
    pd.testing.assert_frame_equal(*ends)


def test_an_arm_whose_runs_diverge_is_worse_and_a_rerun_agrees(tmp_path: Path) -> None:
    text = ROUNDS.replace("model.drop_rate: [0.0, 0.02, 0.5]", "train.learning_rate: [1e-3, 1e30]")
    text = text.replace("{min: 2, max: 5}", "{min: 2, max: 4}").replace("train:\n", "train:\n  grad_clip: null\n")
    sandbox = Sandbox(tmp_path, text)
    for _ in range(2):
        done = call(sandbox)
        assert done.returncode == 0, done.stderr
        runs = runs_of(sandbox)
        ends = runs.groupby("arm", sort=False)["outcome"].agg(list)
        assert dict(ends) == {"learning_rate=0.001": ["complete"] * 4, "learning_rate=1e+30": ["diverged"] * 4}
        assert re.search(r"^lr 1e30 +worse +0 \+ 4 diverged ", done.stdout, re.MULTILINE), done.stdout
        assert "4 of 4 runs of lr 1e30 diverged." in done.stdout.replace("\n", " ")


def test_equal_arms_train_on_different_seeds_and_are_undecided(tmp_path: Path) -> None:
    sandbox = Sandbox(tmp_path, SPEC.replace("[0.0, 0.2]", "[0.0, 0.0]"))
    done = call(sandbox)
    assert done.returncode == 0, done.stderr
    runs = runs_of(sandbox)
    assert set(runs["arm"]) == {"drop_rate=0.0", "drop_rate=0.0 (2)"}
    assert len(runs) == 8 and runs["val/loss"].nunique() == 8  # different seeds
    confirm = runs[runs["phase"] == "confirm"]
    assert confirm.groupby("arm")["seed"].agg(list).map(sorted).tolist() == [[2, 3], [2, 3]]
    assert sorted(confirm["train.seed"]) == [2, 3, 1_000_002, 1_000_003]
    assert re.search(r"^drop 0.0 \(2\) +undecided +2 ", done.stdout, re.MULTILINE)
    assert call(sandbox).returncode == 0 and len(runs_of(sandbox)) == 8


def test_no_decision_depends_on_the_test_split(tmp_path: Path) -> None:
    text = load_corpus(DataConfig(corpus="sotu-1820")).text
    tail = len(text) * 95 // 100  # the test split is the last tenth
    other = text[:tail] + re.sub("[a-z]", "x", text[tail:])
    found = []
    for name, words in (("one", text), ("other", other)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "corpus.txt").write_text(words, "utf-8")
        spec = SPEC.replace("corpus: sotu-1820", f"path: {tmp_path / name / 'corpus.txt'}").replace(
            "seeds: 2", "seeds: {min: 2, max: 4}"
        )
        sandbox = Sandbox(tmp_path / name, spec)
        done = call(sandbox)
        assert done.returncode == 0, done.stderr
        columns = ["arm", "phase", "seed", "trial_number", "train.learning_rate", "val/loss", "test/loss"]
        found.append(runs_of(sandbox)[columns].sort_values(columns[:4], ignore_index=True))
    pd.testing.assert_frame_equal(found[0].drop(columns="test/loss"), found[1].drop(columns="test/loss"))
    confirm = found[0]["phase"] == "confirm"
    assert (found[0].loc[confirm, "test/loss"] != found[1].loc[confirm, "test/loss"]).all()
    assert found[0].loc[~confirm, "test/loss"].isna().all()  # explore runs do not read it


VOCABULARIES = """\
name: tiny
data: {corpus: sotu-1820}
model: {context_length: 32, emb_dim: 16, n_heads: 2, n_layers: 1}
train:
  budget: {tokens: 2_048}
  batch_tokens: 128
  eval_every: {tokens: 1_024}
  eval_tokens: 128
  train_eval_tokens: 256
  sample: {prompt: " the publication", max_new_tokens: 4}
compare:
  data.vocab: [full, corpus]
  train.learning_rate: [1e-3, 1e-2]
study: {seeds: 3}
"""


def test_a_large_effect_has_the_same_sign_in_both_vocabularies(tmp_path: Path) -> None:
    sandbox = Sandbox(tmp_path, VOCABULARIES)
    done = call(sandbox)
    assert done.returncode == 0, done.stderr
    runs = runs_of(sandbox)
    losses = runs.pivot(index="seed", columns="arm", values="val/loss")
    for vocab in ("full", "corpus"):
        slow, fast = (losses[f"vocab={vocab}, learning_rate={rate}"] for rate in (0.001, 0.01))
        assert (fast < slow - 0.02).all()
    # The same targets: a loss in nats is the same multiple of bits per byte in every run, and arms are ranked by it.
    ratios = runs["val/loss"] / runs["val/bits_per_byte"]
    assert ratios.max() == pytest.approx(ratios.min(), rel=1e-9)
    sizes = runs.groupby("data.vocab")["model.vocab_size"].unique()
    assert [size.tolist() for size in sizes[["full", "corpus"]]] == [[50257], [1200]]
    page = (sandbox.folder / "reports/tiny/report.md").read_text("utf-8")
    assert "the validation loss by" in page and "not ranked" not in page
    assert call(sandbox).returncode == 0
    assert len(runs_of(sandbox)) == len(runs)  # nothing is added
    own = runs[runs["data.vocab"] == "corpus"].iloc[0]
    options = ("--prompt", " the publication", "--max-new-tokens", "3")
    written = call(sandbox, own["run_id"], *options, module="harness.generate")
    assert (written.returncode, written.stdout[:16]) == (0, " the publication")
