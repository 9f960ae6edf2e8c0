from __future__ import annotations

import math
import os
import pickle
from collections.abc import Iterator
from pathlib import Path

import optuna
import pytest
from optuna.storages import InMemoryStorage
from optuna.trial import TrialState, create_trial
from sqlalchemy import Engine, event

from harness.config.dimensions import Dimension
from harness.config.samplers import PRUNERS, SAMPLERS
from harness.config.spec import SweepSpec
from harness.core.outcomes import Outcome
from harness.search import samplers
from harness.search.readable import POINT, StorageError
from harness.search.samplers import PrunerScale, SamplerScale, make_pruner, make_sampler
from harness.search.storage import explained, open_storage, read_studies
from harness.search.study import MODELLED, RANDOM, ArmStudy
from specs import GOOD, load, mistakes

ALL_KINDS = """tune:
  train.learning_rate: {log_uniform: [1e-4, 1e-2]}
  train.weight_decay: {uniform: [0, 1]}
  model.n_layers: {int_uniform: [1, 4]}
  model.emb_dim: {choice: [16, 32]}
"""


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/optuna.db"


def spec_of(tmp_path: Path, study: str, tune: str = ALL_KINDS) -> SweepSpec:
    return load(tmp_path, GOOD[: GOOD.index("tune:")] + tune + f"study: {study}\n")


def arm_study(spec: SweepSpec, url: str, arm: int = 0, identity: str | None = None) -> ArmStudy:
    return ArmStudy(spec, spec.arms()[arm], identity or spec.identity(), open_storage(url), 1000, 10_000)


def loss(values: dict[str, object]) -> float:
    return abs(math.log10(float(values["train.learning_rate"])) + 3)  # type: ignore[arg-type]


def test_every_sampler_and_pruner_is_in_both_registries() -> None:
    assert list(samplers.SAMPLERS) == list(SAMPLERS)
    assert list(samplers.PRUNERS) == list(PRUNERS)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_facts_of_a_sampler_match_its_optuna_class(sampler: str) -> None:
    made = make_sampler(sampler, 1, 0, {"model.n_layers": Dimension("choice", (1, 2))}, SamplerScale(startup=3))
    facts = SAMPLERS[sampler]
    assert getattr(made, "_n_startup_trials", 0) == (3 if facts.learns else 0)
    assert isinstance(made, optuna.samplers.GridSampler) is facts.choices_only
    with pytest.raises(ValueError, match="unknown sampler 'other'"):
        make_sampler("other", 1, 0, {})


@pytest.mark.slow
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_asks_for_distinct_points_inside_the_space(tmp_path: Path, url: str, sampler: str) -> None:
    grid = "tune:\n  train.learning_rate: {choice: [1e-4, 1e-3, 1e-2]}\n  model.n_layers: {choice: [1, 2]}\n"
    spec = spec_of(
        tmp_path, f"{{sampler: {sampler}, trials: 6}}", grid if SAMPLERS[sampler].choices_only else ALL_KINDS
    )
    asked = []
    while (study := arm_study(spec, url)).missing():  # a new process before every trial
        trial, values = study.ask()
        asked.append(tuple(values.values()))
        assert list(values) == list(spec.tune)
        spec.run_config(values)  # valid
        assert study.report(trial, 1000, loss(values)) is False
        study.tell(trial.number, Outcome.COMPLETE, loss(values))
    assert len(asked) == len(set(asked)) == 6
    plain = optuna.load_study(study_name="dropout/drop_rate=0.0", storage=url)
    assert [trial.state for trial in plain.trials] == [TrialState.COMPLETE] * 6
    assert plain.trials[0].intermediate_values == {1000: plain.trials[0].value}
    best = study.best()
    assert best is not None
    assert best.number == plain.best_trial.number
    assert best.value == pytest.approx(loss(dict(best.values)))


def test_all_arms_get_the_same_points_by_random_sampling(tmp_path: Path, url: str) -> None:
    spec = spec_of(tmp_path, "{sampler: random, trials: 3}")
    asked: list[list[dict[str, object]]] = []
    for arm in (0, 1):
        study = arm_study(spec, url, arm)
        asked.append([])
        for _ in range(3):
            trial, values = study.ask()
            asked[-1].append(values)
            study.tell(trial.number, Outcome.COMPLETE, 1.0)
    assert asked[0] == asked[1]


@pytest.mark.slow
@pytest.mark.parametrize("pruner", PRUNERS)
def test_pruners_stop_bad_trials_and_not_the_best_one(tmp_path: Path, url: str, pruner: str) -> None:
    spec = spec_of(tmp_path, f"{{sampler: random, trials: 12, pruner: {pruner}}}")
    study = arm_study(spec, url)
    pruned = []
    for number in range(12):
        trial, _ = study.ask()
        level = 9.0 if number >= 8 else 5.0 - 0.01 * number
        stop = any(study.report(trial, tokens, level - tokens / 1e5) for tokens in range(1000, 10_001, 1000))
        pruned.append(stop)
        study.tell(trial.number, Outcome.PRUNED if stop else Outcome.COMPLETE, level)
    assert any(pruned[8:]) is (pruner != "none")
    if pruner in ("none", "median"):
        assert not any(pruned[:8])  # each was better than all before it
    assert study.missing() == 0  # pruned trials count as finished
    states = [trial.state for trial in study.study.get_trials()]
    assert states.count(TrialState.PRUNED) == sum(pruned)
    best = study.best()
    assert best is not None
    assert not pruned[best.number]


def test_pruners_work_without_a_known_budget() -> None:
    scale = PrunerScale(trials=10, first_evaluation=1000, budget=None)
    assert isinstance(make_pruner("hyperband", scale), optuna.pruners.HyperbandPruner)
    with pytest.raises(ValueError, match="unknown pruner 'other'"):
        make_pruner("other", scale)


def test_failed_trials_are_replaced_and_never_best(tmp_path: Path, url: str) -> None:
    study = arm_study(spec_of(tmp_path, "{sampler: random, trials: 4}"), url)
    ends = [(Outcome.FAILED, None), (Outcome.OOM, 0.1), (Outcome.DIVERGED, 10.8), (Outcome.COMPLETE, 5.0)]
    for outcome, value in ends:
        trial, _ = study.ask()
        study.tell(trial.number, outcome, value, "the reason\nand its traceback")
    assert study.missing() == 2
    trials = study.study.get_trials()
    assert [t.state.name for t in trials] == ["FAIL", "FAIL", "COMPLETE", "COMPLETE"]
    assert trials[2].value == 10.8  # the loss of an untrained model, not a missing one
    assert trials[0].user_attrs["outcome"] == "failed"
    assert trials[0].user_attrs["reason"] == "the reason"
    best = study.best()
    assert best is not None
    assert best.number == 3


def test_failed_points_of_a_grid_are_tried_again_after_all_others(tmp_path: Path, url: str) -> None:
    grid = "tune:\n  train.learning_rate: {choice: [1e-4, 1e-3, 1e-2]}\n"
    spec = spec_of(tmp_path, "{sampler: grid}", grid)
    bad: list[float] = []
    asked = []
    while (study := arm_study(spec, url)).missing():  # a new process before every trial
        trial, values = study.ask()
        asked.append(values["train.learning_rate"])
        if len(asked) <= 2:
            bad.append(asked[-1])
        if len(asked) < 6:
            study.tell(trial.number, *((Outcome.OOM, None) if asked[-1] in bad else (Outcome.COMPLETE, 3.0)))
        else:
            study.tell(trial.number, Outcome.COMPLETE, 3.0)
    assert sorted(asked[:3]) == [1e-4, 1e-3, 1e-2]
    assert asked[3:] == [*bad, bad[0], bad[1]]  # alternately, until both succeed
    assert not [t for t in study.known if not t.state.is_finished()]


def test_a_storage_that_cannot_be_opened_is_a_one_line_error() -> None:
    for address in ("foo", "sqlite:////nowhere/at/all.db", "nosuch://x"):
        with pytest.raises(StorageError, match=r"^--storage: found '.*', which cannot be opened: [^\n]*$"):
            open_storage(address)


def test_a_diverged_trial_is_not_best_even_if_it_is_the_only_one(tmp_path: Path, url: str) -> None:
    study = arm_study(spec_of(tmp_path, "{sampler: random, trials: 1}"), url)
    trial, _ = study.ask()
    study.tell(trial.number, Outcome.DIVERGED, 10.8)
    assert study.best() is None


def test_trials_of_a_killed_process_are_asked_again_with_their_values(tmp_path: Path, url: str) -> None:
    spec = spec_of(tmp_path, "{sampler: random, trials: 2}")
    _, values = arm_study(spec, url).ask()
    study = arm_study(spec, url)
    study.recover()
    assert study.missing() == 2
    again, same = study.ask()
    assert same == values
    study.tell(again.number, Outcome.COMPLETE, 1.0)
    assert [t.state.name for t in study.study.get_trials()] == ["COMPLETE"]
    _, other = study.ask()
    assert other != values


def test_an_edited_spec_gets_studies_of_its_own(tmp_path: Path, url: str) -> None:
    spec = spec_of(tmp_path, "{sampler: random, trials: 2}")
    first = arm_study(spec, url, identity="a" * 64)
    trial, _ = first.ask()
    first.tell(trial.number, Outcome.COMPLETE, 1.0)
    other = arm_study(spec, url, identity="b" * 64)
    assert (first.name, other.name) == ("dropout/drop_rate=0.0", "dropout/drop_rate=0.0@bbbbbbbb")
    assert (first.missing(), other.missing()) == (1, 2)
    assert arm_study(spec, url, identity="a" * 64).missing() == 1
    assert arm_study(spec, url, identity="b" * 64).name == other.name


RATE = "tune:\n  train.learning_rate: {log_uniform: [1e-4, 1]}\n"
TWO = RATE + "  train.weight_decay: {uniform: [0, 1]}\n"


def points(study: ArmStudy) -> list[tuple[dict[str, object], str]]:
    """The values of a whole search, one trial after the other, and how each was chosen."""
    found = []
    while study.missing():
        trial, values = study.ask()
        found.append((values, trial.user_attrs.get(POINT, "")))
        study.tell(trial.number, Outcome.COMPLETE, loss({"train.learning_rate": 1e-2, **values}))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("sampler", [name for name, facts in SAMPLERS.items() if facts.learns])
def test_a_sampler_that_learns_uses_results_after_a_third_of_the_trials(tmp_path: Path, url: str, sampler: str) -> None:
    spec = spec_of(tmp_path, f"{{sampler: {sampler}}}", TWO)  # ten trials by default
    found = points(arm_study(spec, url))
    kinds = [kind for _, kind in found]
    blind = spec.unmodelled_trials
    assert kinds == [RANDOM] * blind + [MODELLED] * (10 - blind)
    assert blind <= 5 if sampler == "cmaes" else blind == 3
    random = spec_of(tmp_path, "{sampler: random}", TWO)
    drawn = [values for values, _ in points(arm_study(random, url, identity="random"))]
    assert [values for values, _ in found[:1]] == drawn[:1]
    assert all(values not in drawn for values, kind in found if kind == MODELLED)


@pytest.mark.parametrize(
    ("study", "startup"),
    [
        ("{trials: 1}", 2),
        ("{trials: 4}", 2),
        ("{trials: 9}", 3),
        ("{trials: 12}", 4),
        ("{trials: 100}", 5),
        ("{trials: 100, startup_trials: 30}", 30),
        ("{sampler: gp, trials: 6}", 2),
        ("{sampler: cmaes, trials: 100}", 1),
        ("{sampler: random, trials: 100}", 0),
        ("{sampler: qmc, startup_trials: 3}", 0),
    ],
)
def test_the_number_of_random_trials_follows_from_the_number_of_trials(
    study: str, startup: int, tmp_path: Path
) -> None:
    spec = spec_of(tmp_path, study, RATE)
    assert spec.startup_trials == startup
    assert spec.unmodelled_trials <= spec.trials


def test_a_written_number_of_random_trials_begins_a_new_sweep(tmp_path: Path) -> None:
    plain, written = (spec_of(tmp_path, study, RATE) for study in ("{trials: 9}", "{trials: 9, startup_trials: 3}"))
    assert plain.startup_trials == written.startup_trials
    assert plain.identity() != written.identity()
    assert written.changed_fields(plain.to_yaml()) == ["study.startup_trials"]


def test_cmaes_draws_choices_at_random_and_is_refused_where_there_is_nothing_else(tmp_path: Path, url: str) -> None:
    choices = "tune:\n  model.n_layers: {choice: [1, 2, 3]}\n  train.learning_rate: {log_uniform: [1e-4, 1]}\n"
    found = points(arm_study(spec_of(tmp_path, "{sampler: cmaes, trials: 12}", choices), url))
    assert len({values["model.n_layers"] for values, kind in found if kind == MODELLED}) > 1  # whatever the results
    only = "tune:\n  model.n_layers: {choice: [1, 2, 3]}\n"
    text = GOOD[: GOOD.index("tune:")] + only + "study: {sampler: cmaes}\n"
    assert mistakes(tmp_path, text) == [
        "spec.yaml:13: study.sampler: found cmaes, which draws choices at random, and every tuned dimension is one; "
        "allowed: tpe | random | grid | qmc | gp"
    ]


def test_cmaes_tries_the_points_of_optunas_own_sampler_and_loads_no_pickle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = spec_of(tmp_path, "{sampler: cmaes, trials: 16, pruner: hyperband}")
    marker = tmp_path / "marker"
    planted = pickle.dumps(Planted(str(marker))).hex()

    def opened(storage: InMemoryStorage) -> ArmStudy:
        return ArmStudy(spec, spec.arms()[0], spec.identity(), storage, 1000, 10_000)

    def searched(name: str, interrupted: bool = False, plant: bool = False) -> list[dict[str, object]]:
        """The points of a search, in which every fifth trial is pruned."""
        found: list[dict[str, object]] = []
        storage = InMemoryStorage()
        study = opened(storage)
        while study.missing():
            trial, values = study.ask()
            if interrupted and len(found) == trial.number and trial.number % 4 == 1:
                study.tell(trial.number, Outcome.INTERRUPTED, None)
                found.append({})
                study = opened(storage)  # a new process
                continue
            if plant:
                study.storage.set_trial_system_attr(trial._trial_id, "cma:optimizer:0", planted)
            value = loss(values) + 0.1 * float(values["train.weight_decay"])  # type: ignore[arg-type]
            study.report(trial, 1000, value)
            study.tell(trial.number, Outcome.PRUNED if trial.number % 5 == 3 else Outcome.COMPLETE, value)
            found[trial.number :] = [values]
        stored = {name for trial in study.known for name in trial.system_attrs}
        assert ("cma:optimizer:0" in stored) is (name == "optuna" or plant)
        return found

    undisturbed = searched("ours")
    assert searched("interrupted", interrupted=True) == undisturbed
    assert searched("planted", plant=True) == undisturbed
    assert not marker.exists()

    def original(seed: int, _space: object, scale: SamplerScale) -> optuna.samplers.BaseSampler:
        return optuna.samplers.CmaEsSampler(
            seed=seed, n_startup_trials=scale.startup, popsize=scale.population, warn_independent_sampling=False
        )

    monkeypatch.setattr(samplers, "SAMPLERS", {**samplers.SAMPLERS, "cmaes": original})
    assert searched("optuna") == undisturbed


class Planted:
    """An object whose pickle makes a folder when it is loaded."""

    def __init__(self, marker: str) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (self.marker,)


def test_qmc_spreads_choices_evenly(tmp_path: Path, url: str) -> None:
    choices = "tune:\n  model.n_layers: {choice: [1, 2]}\n  train.learning_rate: {log_uniform: [1e-4, 1]}\n"
    study = arm_study(spec_of(tmp_path, "{sampler: qmc, trials: 9}", choices), url)
    drawn = [values["model.n_layers"] for values, _ in points(study)]
    assert drawn[1:].count(1) == 4  # of eight; Optuna draws the first point at random


@pytest.mark.slow
@pytest.mark.parametrize("sampler", ["tpe", "gp", "cmaes"])
def test_short_searches_of_one_dimension_work_with_every_sampler(tmp_path: Path, url: str, sampler: str) -> None:
    spec = spec_of(tmp_path, f"{{sampler: {sampler}, trials: 3, startup_trials: 1}}", RATE)
    assert len(points(arm_study(spec, url))) == 3


def test_a_wide_range_of_integers_is_checked_for_all_its_values(tmp_path: Path) -> None:
    plain = GOOD[: GOOD.index("tune:")]
    wide = {
        "model.emb_dim: {int_uniform: [2, 2400]}": "found 3 with n_heads 2",
        "model.n_heads: {int_uniform: [1, 90_000]}": "found 16 with n_heads 3",
    }
    for tune, message in wide.items():
        (found,) = mistakes(tmp_path, f"{plain}tune:\n  {tune}\n")
        assert message in found
    far = "tune:\n  model.emb_dim: {int_uniform: [2, 4_000_000]}\n  train.weight_decay: {uniform: [0, 1]}\n"
    far += "  train.beta1: {uniform: [0, 0.9]}\n  model.n_heads: {choice: [1, 2]}\n"
    assert "found 3 with n_heads 2" in mistakes(tmp_path, plain.replace("n_heads: 2", "n_heads: 1") + far)[0]
    load(tmp_path, plain + "tune:\n  train.batch_size: {int_uniform: [1, 9_000]}\n")


@pytest.fixture
def statements() -> Iterator[list[str]]:
    """The SQL statements of all databases, as they are executed."""
    seen: list[str] = []

    def record(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        seen.append(statement)

    event.listen(Engine, "before_cursor_execute", record)
    yield seen
    event.remove(Engine, "before_cursor_execute", record)


@pytest.mark.slow
def test_the_studies_of_others_cost_a_sweep_nothing(tmp_path: Path, url: str, statements: list[str]) -> None:
    spec = spec_of(tmp_path, "{sampler: random, trials: 2}")

    def counts() -> list[int]:
        """Statements to create an arm's study, to open it again, and to read the studies of the sweep."""
        found = []
        storage = open_storage(url)
        identity = f"{len(storage.get_all_studies()):08}" * 8
        for step in (
            lambda: ArmStudy(spec, spec.arms()[0], identity, storage, 1000, 10_000),
            lambda: ArmStudy(spec, spec.arms()[0], identity, storage, 1000, 10_000),
            lambda: read_studies(url, spec, identity),
        ):
            statements.clear()
            step()
            found.append(len(statements))
        return found

    counts()  # creates the tables, and takes the plain names of the studies
    alone = counts()
    for number in range(20):
        other = optuna.create_study(storage=url, study_name=f"other/{number}")
        other.add_trials([create_trial(value=1.0) for _ in range(3)])
    assert counts() == alone
    assert alone[1] < alone[0] < 40


def test_a_loss_is_reported_without_reading_the_trial_first(tmp_path: Path, url: str, statements: list[str]) -> None:
    study = arm_study(spec_of(tmp_path, "{sampler: random, trials: 1, pruner: none}"), url)
    trial, _ = study.ask()
    study.report(trial, 1000, 5.0)
    study.recover()
    again = arm_study(spec_of(tmp_path, "{sampler: random, trials: 1, pruner: none}"), url)
    trial, _ = again.ask()
    statements.clear()
    assert again.report(trial, 1000, 5.0) is False  # reported by the process before
    assert not [one for one in statements if not one.startswith("SELECT")]
    again.report(trial, 2000, 4.0)
    assert [one for one in statements if one.startswith("INSERT INTO trial_intermediate_values")]
    assert again.known[0].intermediate_values == {1000: 5.0, 2000: 4.0}


def test_a_full_disk_names_the_storage(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/optuna.db"
    storage = open_storage(url)
    storage.database.engine.dispose()
    event.listen(
        storage.database.engine, "connect", lambda connection, _: connection.execute("pragma max_page_count = 1")
    )
    full = rf"^Optuna: disk: No space left on device: {tmp_path}/optuna.db \(on the file system /.*\); the same command"
    with pytest.raises(StorageError, match=full), explained(url):
        for number in range(200):
            optuna.create_study(storage=storage, study_name=f"{number}" * 100)
