from __future__ import annotations

from pathlib import Path

import pytest

from harness.config.fields import field_paths
from harness.config.load import load_spec
from harness.config.messages import spec_paths
from harness.config.other_names import _FIELDS, _OF_FIELD, did_you_mean
from harness.core.errors import SpecError

KNOWN = spec_paths()

NANOGPT = """\
name: mine
data: {corpus: sotu-1820}
n_layer: 4
model: {block_size: 64, n_embd: 32}
train: {budget: {max_iters: 100}, batch_size: 8, lr: 1e-3}
compare: {model.dropout: [0.0, 0.1]}
tune: {train.min-lr: {uniform: [0, 1]}}
study: {n_trials: 3}
"""


def test_every_name_leads_to_a_field_and_is_none_itself() -> None:
    assert set(_OF_FIELD) <= set(KNOWN)
    assert len(_FIELDS) == sum(map(len, _OF_FIELD.values()))  # no name leads to two fields
    assert not {path.rpartition(".")[2] for path in KNOWN} & _FIELDS.keys()
    assert all(name == name.lower().replace("-", "_") for name in _FIELDS)


def test_a_spec_in_the_words_of_nanogpt_is_answered_in_ours(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(NANOGPT, "utf-8")
    with pytest.raises(SpecError) as error:
        load_spec(file)
    found = [str(problem).removeprefix(f"{file}:") for problem in error.value.problems]
    assert found == [
        "3: n_layer: unknown section 'n_layer'; did you mean model.n_layers?",
        "4: model.block_size: unknown field 'block_size'; did you mean model.context_length?",
        "4: model.n_embd: unknown field 'n_embd'; did you mean model.emb_dim?",
        "5: train.budget.max_iters: unknown field 'max_iters'; did you mean train.budget.steps?",
        "5: train.lr: unknown field 'lr'; did you mean train.learning_rate?",
        "6: compare.model.dropout: unknown field 'model.dropout'; did you mean model.drop_rate?",
        "7: tune.train.min-lr: unknown field 'train.min-lr'; did you mean train.final_fraction?",
        "8: study.n_trials: unknown field 'n_trials'; did you mean study.trials?",
    ]


def test_fields_below_come_before_the_names_of_others() -> None:
    assert did_you_mean("train.eval_every", KNOWN) == (
        "unknown field 'train.eval_every'; did you mean train.eval_every.tokens or train.eval_every.epochs or "
        "train.eval_every.steps?"
    )
    assert did_you_mean("learning_rate", KNOWN, "section") == (
        "unknown section 'learning_rate'; did you mean train.learning_rate?"
    )
    assert did_you_mean("nonsense", KNOWN) == ""
    assert did_you_mean("n_trials", field_paths()) == ""  # not where fields of the study are not allowed
