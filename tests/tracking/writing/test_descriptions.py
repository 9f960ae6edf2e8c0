from __future__ import annotations

from dataclasses import replace

from harness.core.metrics import TEST_LOSS, VAL_LOSS, VAL_PERPLEXITY
from harness.core.outcomes import Outcome, Phase
from harness.tracking.records import ArmInfo
from harness.tracking.writing.descriptions import (
    DESCRIPTION,
    DESCRIPTION_SHA256,
    description_tags,
    experiment_description,
    sweep_description,
    trial_description,
)
from stored_runs import sweep_info, trial_info


def test_a_sweeps_description_has_the_question_the_answer_and_the_commands() -> None:
    info = sweep_info("dropout")
    before = sweep_description(info, "3", "abc")
    assert before.startswith("**Does <b>dropout</b> help? – perhaps**\n\nNo verdict yet.")
    assert "Report" not in before
    after = sweep_description(info, "3", "abc", "It helps by 0.1.", "reports/dropout")
    assert "\n> It helps by 0.1.\n" in after
    assert "[Report](#/experiments/3/runs/abc/artifactPath/report/report.html), written to `reports/dropout`." in after
    assert "viewStateShareKey=harness-verdict" in after
    assert "Compared: model.drop_rate; tuned in each arm: train.learning_rate." in after
    assert "- A1 · drop 0.0: drop_rate=0.0\n- A2 · drop 0.1 (baseline): drop_rate=0.1" in after
    assert f"```sh\n{info.command}\npython -m harness.report dropout\n```" in after


def test_the_experiments_description_links_to_the_latest_sweep() -> None:
    text = experiment_description(sweep_info("dropout"), "3", "abc", "It helps by 0.1 nats. The mean is lower.")
    assert "\n> It helps by 0.1 nats. The mean is lower.\n" in text
    assert text.splitlines()[0].endswith("** It helps by 0.1 nats")  # all that the UI shows at first
    assert "[dropout](#/experiments/3/runs/abc)" in text


def test_a_sweep_without_a_question_shows_its_name_and_at_most_50_arms() -> None:
    arms = tuple(ArmInfo(f"arm{number}", {}) for number in range(60))
    text = sweep_description(replace(sweep_info("many"), question="", arms=arms, compare=(), tune={}), "1", "r")
    assert text.startswith("**many**")
    assert "- A50 · all (50): arm49\n- and 10 more" in text
    assert "Compared: nothing; tuned in each arm: nothing." in text


def test_a_runs_description_says_its_purpose_and_how_it_ended() -> None:
    running = trial_description(trial_info(), "3", "sweep")
    assert running.startswith("**drop_rate=0.0**, seed 7: its arm's best configuration on a fresh seed")
    assert "[the sweep](#/experiments/3/runs/sweep)" in running
    assert "Ended" not in running
    last = {VAL_LOSS: 6.79221, VAL_PERPLEXITY: 890.8812, TEST_LOSS: 6.9, "optim/grad_norm": 1.0}
    files = {"samples.md", "val_loss_by_position.json"}  # no loss curve: it had one evaluation
    done = trial_description(trial_info(), "3", "sweep", "0123456789abcdef", Outcome.COMPLETE, "", last, files)
    assert "Ended as **complete**. Last: val/loss 6.7922, val/perplexity 890.9, test/loss 6.9000." in done
    assert "\n\n[Samples](#/experiments/3/runs/0123456789abcdef/artifactPath/samples.md)\n\n" in done
    assert "python -m harness.generate 0123456789ab --prompt" in done
    explore = trial_description(
        trial_info(phase=Phase.EXPLORE), "3", "sweep", "ab", Outcome.OOM, "no memory\nTraceback", {}
    )
    assert "a trial of its arm's search" in explore
    assert "Ended as **oom**: no memory." in explore
    assert "generate" not in explore


def test_a_users_description_is_not_overwritten() -> None:
    ours = description_tags("first", {})
    assert ours[DESCRIPTION] == "first"
    assert description_tags("second", ours)[DESCRIPTION] == "second"
    assert description_tags("second", {**ours, DESCRIPTION: "what I think of it"}) == {}
    assert description_tags("second", {DESCRIPTION: "what I think of it"}) == {}
    assert description_tags("second", {DESCRIPTION: "", DESCRIPTION_SHA256: "x"})[DESCRIPTION] == "second"
