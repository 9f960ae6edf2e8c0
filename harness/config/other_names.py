"""What nanoGPT, Hugging Face and the book call the fields of a spec, for the message about an unknown field."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from harness.core.text import shown

_OF_FIELD: Final = {
    "data.field": ("content_field", "text_column", "text_field", "text_key"),
    "data.path": ("data_dir", "dataset_path", "file", "train_file"),
    "data.corpus": ("dataset", "dataset_name"),
    "model.context_length": (
        "block_size",
        "ctx_len",
        "max_length",
        "max_position_embeddings",
        "max_seq_len",
        "n_ctx",
        "n_positions",
        "seq_len",
        "sequence_length",
    ),
    "model.drop_rate": ("attn_pdrop", "dropout", "dropout_rate", "embd_pdrop", "p_dropout", "resid_pdrop"),
    "model.emb_dim": ("d_model", "dim", "embed_dim", "embedding_dim", "hidden_size", "n_embd"),
    "model.n_heads": ("n_head", "num_attention_heads", "num_heads"),
    "model.n_layers": ("depth", "n_layer", "num_hidden_layers", "num_layers"),
    "model.init_from": ("from_pretrained", "model_name_or_path", "pretrained"),
    "model.preset": ("model_name", "model_type"),
    "model.qkv_bias": ("attention_bias", "bias", "use_bias"),
    "model.tie_embeddings": ("tie_weights", "tie_word_embeddings", "weight_tying"),
    "study.seeds": ("n_seeds", "num_seeds"),
    "study.trials": ("n_trials", "num_samples", "num_trials"),
    "train.batch_size": ("per_device_train_batch_size", "train_batch_size"),
    "train.beta1": ("adam_beta1",),
    "train.beta2": ("adam_beta2",),
    "train.budget.epochs": ("max_epochs", "n_epochs", "num_epochs", "num_train_epochs"),
    "train.budget.steps": ("max_iters", "max_steps", "num_steps", "train_steps"),
    "train.budget.tokens": ("max_tokens", "train_tokens"),
    "train.eval_every.steps": ("eval_freq", "eval_interval", "eval_steps"),
    "train.eval_tokens": ("eval_iter", "eval_iters"),
    "train.final_fraction": ("lr_end", "min_lr"),
    "train.grad_clip": ("clip_grad", "gradient_clip_val", "max_grad_norm"),
    "train.learning_rate": ("lr", "max_lr", "peak_lr"),
    "train.precision": ("bf16", "dtype", "fp16", "mixed_precision"),
    "train.schedule": ("lr_scheduler", "lr_scheduler_type", "scheduler"),
    "train.warmup": ("warmup_iters", "warmup_ratio", "warmup_steps"),
    "train.weight_decay": ("wd",),
}
_FIELDS: Final = {name: path for path, names in _OF_FIELD.items() for name in names}


def did_you_mean(path: str, known: Sequence[str], kind: str = "field") -> str:
    """A message with the fields that an unknown path may mean; empty if there is none.

    They are those below it, those with the same last part, or the one that other libraries call so.

    Args:
        path: as written.
        known: the dotted paths that exist.
        kind: of what is unknown.
    """
    name = path.rpartition(".")[2]
    below = [other for other in known if other.startswith(path + ".")]
    same = [other for other in known if other.rpartition(".")[2] == name]
    ours = _FIELDS.get(name.lower().replace("-", "_"), "")
    found = below or same or [other for other in known if other == ours]
    return f"unknown {kind} {shown(path)}; did you mean {' or '.join(found)}?" if found else ""
