"""What a configuration does: two runs with equal effects have equal losses, so comparing them shows nothing.

Fields that another field disables, and fields that decide what is measured or shown but not what is trained, have no
effect.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from harness.config.mixture import MIX
from harness.config.run import RunConfig, flatten

Effect = tuple[tuple[str, Any], ...]

# Fields without any effect on training, by the start of their path, and fields that other fields disable; in words.
_REASONS: Final[Mapping[str, str]] = {
    "train.sample": "it changes only the generated text",
    "train.eval_every": "it changes only how often a run is evaluated",
    "train.train_eval_tokens": "it changes only how train/loss is measured",
    "train.decay": "train.schedule wsd uses it, the others do not",
    "train.final_fraction": "train.schedule constant does not use it",
    "train.schedule": "with train.final_fraction 1.0 the learning rate stays constant",
    "train.budget": "they are the same number of steps",
    "train.batch": "they are the same number of windows",
    "train.device": "they are one device on this machine",
    "train.precision": "they are one precision on this machine",
    "train.compile": "on this machine they mean the same",
    "model.init_from": "they are the same weights",
    MIX: "only the proportions of the weights matter",
    "data.split.val": "data.val_path has the validation text",
    "data.split.test": "data.test_path has the test text",
    "data.split.seed": "data.split.by documents uses it, position does not",
    "model.preset": "the fields that it sets are all written under model",
    "model.vocab_size": "they are the same number of rows",
}
_ONLY_MEASURED: Final = ("train.sample.", "train.eval_every.", "train.train_eval_tokens", "train.eval_tokens")
_NEVER: Final = "train.checkpoint_every"


def effect_of(config: RunConfig, train_tokens: int | None = None, devices: Sequence[str] = ()) -> Effect:
    """The fields that decide a run's losses, with their values; equal for runs that train alike.

    Args:
        config: of the run.
        train_tokens: tokens of its training split; None if unknown: budgets in epochs are then compared as written.
        devices: of this machine, the one that `auto` takes first; empty if it is not known where the run trains.
    """
    fields = dict(flatten(config.model_dump(mode="json")))
    fields = {path: value for path, value in fields.items() if not path.startswith(_ONLY_MEASURED) and path != _NEVER}
    train = config.train
    schedule = "constant" if train.final_fraction == 1.0 else train.schedule
    fields["train.schedule"] = schedule
    if schedule != "wsd":
        del fields["train.decay"]
    data = config.data
    unused = {
        "data.split.val": data.holds_out("val"),
        "data.split.test": data.holds_out("test"),
        "data.split.seed": data.split.by == "position",
    }
    fields = {path: value for path, value in fields.items() if not unused.get(path)}
    total = sum(data.weights.values())
    fields |= {f"{MIX}{name}.weight": weight / total for name, weight in data.weights.items()}
    if schedule == "constant":
        del fields["train.final_fraction"]
    for path in ("train.batch_tokens", "train.batch_size"):
        fields.pop(path, None)
    fields["train.sequences"] = config.sequences_per_step
    if config.model.init_sha256 is not None:  # which weights they are, wherever they lie
        del fields["model.init_from"]
    if config.model.vocab_size is None and config.data.n_vocab is not None:
        fields["model.vocab_size"] = config.data.n_vocab
    steps = _steps(config, train_tokens)
    if steps is not None:
        fields = {path: value for path, value in fields.items() if not path.startswith("train.budget.")}
        fields["train.steps"] = steps
    if devices:
        fields |= _on_machine(config, devices)
    return tuple(sorted((path, tuple(it) if isinstance(it, list) else it) for path, it in fields.items()))


def _steps(config: RunConfig, train_tokens: int | None) -> int | None:
    """Optimizer steps of a run; None if they are not known yet."""
    budget = config.train.budget
    if budget.epochs is not None and train_tokens is None:
        return None
    if budget.flops is not None and config.model.vocab_size is None and config.data.n_vocab is None:
        return None
    return config.total_steps(((train_tokens or 1) - 1) // config.model.context_length)


def _on_machine(config: RunConfig, devices: Sequence[str]) -> dict[str, Any]:
    """Device, precision and compilation as `harness.training.devices` resolves them, as far as that needs no torch."""
    train = config.train
    device = devices[0] if train.device == "auto" else train.device
    if device == "cuda":
        return {"train.device": device}
    return {
        "train.device": device,
        "train.precision": "fp32" if train.precision == "auto" else train.precision,
        "train.compile": False if train.compile == "auto" else train.compile,
    }


def reason(path: str) -> str:
    """Why a field has no effect, in words; empty if unknown."""
    return next((words for start, words in _REASONS.items() if path.startswith(start)), "")
