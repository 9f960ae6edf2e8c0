"""A run's model as a folder that transformers loads: weights, configuration, tokenizer and a model card."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from safetensors.torch import save

from harness.config.run import RunConfig
from harness.core.files import write_atomic
from harness.core.text import visible
from harness.data.errors import CorpusError
from harness.data.hugging_face import check_exported, tokenizer_files
from harness.model.hugging_face import weights_for_hugging_face
from harness.model.hugging_face_config import config_for_hugging_face
from harness.model.weights import load_checkpoint, load_tokenizer
from harness.tracking import RunDetails
from harness.training.trained_model import find_checkpoint

_METRICS: Final = ("val/loss", "val/perplexity", "val/bits_per_byte", "test/loss", "train/loss")


def export_model(run: str, folder: Path, uri: str | None = None) -> list[Path]:
    """Write a run's model for transformers. Returns the files.

    `AutoModelForCausalLM.from_pretrained` and `AutoTokenizer.from_pretrained` load the folder: the same logits up to
    rounding, and the same ids for every text, apart from special tokens (`harness.data.hugging_face`).

    Args:
        run: a run's id, the first 4 or more characters of its id, its exact name, or a folder with a checkpoint.
        folder: new or empty.
        uri: MLflow's tracking address; by default the one that sweeps use.

    Raises:
        TrackingError: no such store or run, several runs, or a run without a checkpoint.
        CheckpointError: a file of the checkpoint is missing or damaged.
        CorpusError: the tokenizer cannot be exported.
        FileExistsError: the folder has files.
        OSError: a file cannot be written.
    """
    checkpoint, details = find_checkpoint(run, uri)
    model, config = load_checkpoint(checkpoint, params=details.params if details else None)
    if config.data.vocab != "full":
        raise CorpusError(
            "data.vocab",
            "found corpus, whose ids mean nothing outside this text; allowed for an export: a run with data.vocab full",
        )
    check_exported(config.data.tokenizer)  # before it is loaded, which may download it
    tokenizer = load_tokenizer(checkpoint)
    of_tokenizer = tokenizer_files(tokenizer, config.model.context_length)
    if folder.exists() and any(folder.iterdir()):
        raise FileExistsError(f"found files in {folder}; allowed: a new or empty folder")
    folder.mkdir(parents=True, exist_ok=True)
    weights = weights_for_hugging_face(model.state_dict(), config)
    contents = {
        "model.safetensors": save(weights, metadata={"format": "pt"}),
        "config.json": _json(config_for_hugging_face(config, tokenizer.end_of_text)),
        **of_tokenizer,
        "README.md": model_card(config, details).encode(),
    }
    for name, content in contents.items():
        write_atomic(folder / name, [content])
    return [folder / name for name in contents]


def model_card(config: RunConfig, run: RunDetails | None) -> str:
    """The facts of a run as a model card.

    Args:
        config: of the run.
        run: as MLflow holds it; None if only the checkpoint is known.
    """
    lines = ["---", "library_name: transformers", "pipeline_tag: text-generation", "---", ""]
    lines += [f"# {visible(run.name) if run else 'A GPT'}", ""]
    if run is not None:
        where = f"sweep `{run.experiment}`, arm `{visible(run.arm)}`, {run.phase} run `{run.run_id}`"
        found = [(name, f"{run.final[name]:.4f}") for name in _METRICS if name in run.final]
        lines += [f"Trained in the {where}.", "", *_table("metric", found), ""]
    if config.model.init_sha256 is not None:
        weights = f"`{visible(str(config.model.init_from))}` (SHA-256 `{config.model.init_sha256[:12]}…`)"
        lines += [f"The training started from the weights {weights}.", ""]
    lines += _table("setting", [(f"`{name}`", _cell(value)) for name, value in config.flat().items()])
    about = "No licence is given: that depends on the text it was trained on."
    return "\n".join([*lines, "", f"{config.parameters:,} parameters. {about}", ""])


def _table(title: str, rows: Iterable[tuple[str, str]]) -> list[str]:
    return [f"| {title} | value |", "| --- | --- |", *(f"| {name} | {value} |" for name, value in rows)]


def _cell(value: Any) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, tuple | list) else str(value)
    return visible(" ".join(text.split())).replace("|", "\\|")


def _json(values: Mapping[str, Any]) -> bytes:
    return (json.dumps(values, indent=2, ensure_ascii=False) + "\n").encode()
