"""Weights to start from: what they decide of a run's configuration, and what a spec may say besides.

The weights are found and read by `harness.model.sources`; here are only the facts that a configuration depends on.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from harness.config.run import RunConfig
from harness.config.sections import PRESETS, DataConfig
from harness.config.tokenizers import VOCABULARY, is_own
from harness.core.text import shown

INIT_FROM: Final = "model.init_from"
INIT_SHA256: Final = "model.init_sha256"

# Fields of the model whose values come from the weights. A spec may set two others, see `started`.
DECIDED: Final = ("vocab_size", "emb_dim", "n_heads", "n_layers", "qkv_bias", "tie_embeddings")
FIELDS: Final = (*DECIDED, "context_length", "drop_rate")  # those that weights give a value
PADDING: Final = 128  # more rows than tokens: tables are often padded to a multiple of at most this
_TOKENIZER: Final = "tokenizer.json"  # which transformers writes beside the weights
_SAME: Final = {"gpt2", "r50k_base"}  # two names of one tokenizer


@dataclass(frozen=True)
class StartWeights:
    """The facts about weights to start from.

    Attributes:
        name: as the spec names them.
        folder: where they are on this machine, absolute.
        sha256: of the weights.
        fields: of the model, by name: all of `FIELDS`. `drop_rate` is None if there is no single rate.
        dropout: the rates, in words.
        tokenizer: of the weights; empty if it is not known.
        tokenizer_sha256: of what defines it, if it is not built in.
        found: a sentence on where they were found, if the name could have meant something else; else empty.
    """

    name: str
    folder: Path
    sha256: str
    fields: Mapping[str, Any]
    dropout: str
    tokenizer: str = ""
    tokenizer_sha256: str = ""
    found: str = ""


class StartError(ValueError):
    """Weights to start from cannot be used.

    Attributes:
        mistakes: (dotted path of a field, message), at least one.
    """

    def __init__(self, *mistakes: tuple[str, str]) -> None:
        super().__init__(*mistakes)  # in `args`, so that the error can be pickled
        self.mistakes = mistakes

    def __str__(self) -> str:
        return "; ".join(f"{path}: {message}" for path, message in self.mistakes)


WeightsOf = Callable[[str], StartWeights]  # from the value of `model.init_from`; raises StartError


def started(written: Mapping[str, Any], weights_of: WeightsOf) -> Mapping[str, Any]:
    """The sections of a run with every field of the model that its weights decide.

    A field that is written must have the value of the weights. Two may have another one: `drop_rate`, and a shorter
    `context_length`, which keeps the first rows of the table of positions.

    Args:
        written: the sections as they were written; returned as they are if they name no weights.
        weights_of: finds weights.

    Raises:
        StartError: there are no such weights, or a field is written with another value.
    """
    model = written.get("model")
    if not isinstance(model, Mapping) or not isinstance(model.get("init_from"), str):
        return written
    weights = weights_of(model["init_from"])
    given = written_fields(written)
    mistakes = list(_mistakes(given, weights))
    if mistakes:
        raise StartError(*mistakes)
    fields = {name: value for name, value in weights.fields.items() if value is not None}
    given = {name: value for name, value in given.items() if value is not None}
    return {**written, "model": {**fields, **given, "init_sha256": weights.sha256}}


def written_fields(written: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of the model that are written; those of a preset are the sizes that its name stands for."""
    model = written.get("model")
    model = model if isinstance(model, Mapping) else {}
    preset = model.get("preset")
    sizes = PRESETS.get(preset, {}) if isinstance(preset, str) else {}
    return {name: value for name, value in {**sizes, **model}.items() if name != "preset"}


def started_config(written: Mapping[str, Any], weights_of: WeightsOf | None) -> RunConfig:
    """The configuration of written sections, with the sizes of its weights. Without `weights_of` they are not known.

    Raises:
        pydantic.ValidationError: the sections make no valid run.
        StartError: as `started`, or the tokens of the run are not those of the weights.
    """
    if weights_of is None:
        return RunConfig.model_validate(written)
    whole = started(written, weights_of)
    if whole is not written:
        with contextlib.suppress(ValidationError):  # reported below, with all others
            data = DataConfig.model_validate(whole.get("data"))
            check_tokens(data, weights_of(whole["model"]["init_from"]), data.n_vocab)
    return RunConfig.model_validate(whole)


def _mistakes(given: Mapping[str, Any], weights: StartWeights) -> list[tuple[str, str]]:
    """Fields whose value does not fit the weights: path and message."""
    mistakes = []
    for name in DECIDED:
        value, allowed = given.get(name), weights.fields[name]
        if value is not None and (isinstance(value, bool), value) != (isinstance(allowed, bool), allowed):
            text = str(allowed).lower() if isinstance(allowed, bool) else allowed
            mistakes.append((f"model.{name}", f"found {shown(value)}; allowed: {text}, as in {weights.name}"))
    context, longest = given.get("context_length"), weights.fields["context_length"]
    if isinstance(context, int | float) and context > longest:
        has = f"the positions that {weights.name} has"
        mistakes.append(("model.context_length", f"found {context}; allowed: at most {longest}, {has}"))
    if given.get("drop_rate") is None and weights.fields["drop_rate"] is None:
        rates = f"found the rates {weights.dropout} in {weights.name}"
        mistakes.append(("model.drop_rate", f"{rates}; allowed: one rate for all three, written here"))
    pinned = given.get("init_sha256")
    if isinstance(pinned, str) and pinned.lower() != weights.sha256:
        message = f"found {pinned[:12]}…; allowed: {weights.sha256}, the SHA-256 of the weights in {weights.name}"
        mistakes.append((INIT_SHA256, message))
    return mistakes


def check_tokens(
    data: DataConfig, weights: StartWeights, tokens: int | None, tokenizer_sha256: str | None = None
) -> None:
    """Check that a run's tokens are those of its weights.

    Args:
        data: of the run.
        weights: that it starts from.
        tokens: size of the run's vocabulary; None if it is not known yet.
        tokenizer_sha256: of what defines its tokenizer; empty for a built-in one, None if it is not known yet.

    Raises:
        StartError: they cannot be.
    """
    name, rows = data.tokenizer, weights.fields["vocab_size"]
    if data.vocab != "full":
        message = f"found {data.vocab}, which renumbers the tokens that {weights.name} knows; allowed: full"
        raise StartError(("data.vocab", message))
    of_both = {name, weights.tokenizer} - {""}
    if len(of_both) > 1 and of_both != _SAME and not all(map(is_own, of_both)):
        message = f"found {name}; allowed: {weights.tokenizer}, whose tokens {weights.name} was trained on"
        raise StartError(("data.tokenizer", message))
    if tokenizer_sha256 is not None and weights.tokenizer and tokenizer_sha256 != weights.tokenizer_sha256:
        message = f"found another {name} than the {weights.tokenizer} that {weights.name} was trained with"
        raise StartError(("data.tokenizer", f"{message}; allowed: the same tokenizer, as a file"))
    if tokens is not None and not tokens <= rows < tokens + PADDING:
        fitting = [other for other, size in VOCABULARY.items() if size <= rows < size + PADDING]
        if not fitting and (weights.folder / _TOKENIZER).is_file() and not weights.name.startswith("run:"):
            fitting = [f"{weights.name}/{_TOKENIZER}"]
        message = f"found {name} with {tokens} tokens; allowed: {' or '.join(fitting) or 'a tokenizer'}"
        raise StartError(("data.tokenizer", f"{message} for the {rows} rows of the embedding in {weights.name}"))


def notes(config: RunConfig, weights: StartWeights) -> list[str]:
    """Sentences on what a run does not take from its weights."""
    found = [weights.found] if weights.found else []
    context, longest = config.model.context_length, weights.fields["context_length"]
    if context < longest:
        found.append(f"{weights.name}: the first {context} of its {longest} positions are used")
    if config.model.drop_rate != weights.fields["drop_rate"]:
        found.append(f"{weights.name}: dropout {config.model.drop_rate} in place of {weights.dropout}")
    return found
