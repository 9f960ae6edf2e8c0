"""Copies weights to start from into a new GPT."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import torch
from safetensors import safe_open

from harness.config.run import RunConfig
from harness.config.starting import INIT_SHA256, StartError
from harness.model.gpt import GPT
from harness.model.hugging_face import weight_from_hugging_face
from harness.model.sources import Source
from harness.model.tensor_shapes import HEAD


@torch.no_grad()
def start_from(model: GPT, config: RunConfig, source: Source) -> None:
    """Set every weight of a GPT to that of its source, in float32. Tensors are read one by one, mapped into memory.

    A context that is shorter than the source's has the first rows of its positions.

    Args:
        model: on the CPU; its shapes fit the source.
        config: of the run, with the SHA-256 of the weights.
        source: the weights.

    Raises:
        StartError: they are not those of the configuration.
    """
    found, wanted = source.weights.sha256, str(config.model.init_sha256)
    if found != wanted:
        which = f"found {found[:12]}… in {config.model.init_from}, which has changed"
        raise StartError((INIT_SHA256, f"{which}; allowed: {wanted[:12]}…, the weights that the run starts from"))
    with ExitStack() as stack:
        opened = {
            file: stack.enter_context(safe_open(file, framework="pt", device="cpu"))
            for file in set(source.files.values())
        }

        def read(name: str) -> Any:
            prefix = "" if name == HEAD else source.prefix
            return opened[source.files[name]].get_slice(f"{prefix}{name}")

        for name, parameter in model.named_parameters():
            size = len(parameter)
            tensor = weight_from_hugging_face(read, name, size) if source.theirs else read(name)[:size]
            parameter.copy_(tensor)
