"""Weights of the Hugging Face hub: downloaded once, found in the cache, or one sentence on how to get them."""

from __future__ import annotations

import builtins
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from gpt2_folders import write_gpt2
from harness.config.starting import StartError
from harness.core.files import sha256_of
from harness.core.paths import WEIGHTS
from harness.model.hub import may_be_hub_id
from harness.model.sources import find_source
from paths import ROOT, SUPPORT

pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed")

GPT2 = "openai-community/gpt2"
COMPARE = f"""
import json, sys
from harness.config.starting import StartError
from harness.model.sources import find_source, with_source
try:
    source = find_source("{GPT2}")
except StartError as error:
    sys.exit(str(error))
import torch, transformers
from harness.config.run import RunConfig
from harness.data import open_dataset
from harness.model.init import build_gpt
from helpers import evaluator, small_config
plain = small_config().model_dump(exclude_unset=True)
plain |= {{"data": {{"corpus": "sotu-1820"}}, "model": {{"init_from": "{GPT2}", "context_length": 256}}}}
config = with_source(RunConfig.model_validate(plain))
ours = build_gpt(config, source=source).eval()
theirs = transformers.AutoModelForCausalLM.from_pretrained(source.weights.folder).eval()
tokens = torch.randint(50257, (2, 256), generator=torch.Generator().manual_seed(0))
with torch.no_grad():
    apart = (ours(tokens) - theirs(tokens).logits).abs().max().item()
loss = evaluator(config, ours, open_dataset(config.data)).score_split("val").mean
print(json.dumps([apart, loss, source.weights.sha256]))
"""


def in_a_process(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if name not in ("HF_HUB_OFFLINE", "HF_ENDPOINT")}
    kept["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(SUPPORT)])
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, env={**kept, **environment}, timeout=1200
    )


@pytest.mark.slow
def test_a_model_is_downloaded_once(tmp_path: Path) -> None:
    write_gpt2(tmp_path / "small")
    for name in ("pytorch_model.bin", "model.h5", "README.md"):
        (tmp_path / "small" / name).write_text("not to be downloaded", "utf-8")
    done = in_a_process(str(SUPPORT / "hub_server.py"), str(tmp_path / "small"), str(tmp_path / "cache"))
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    sha256 = sha256_of(tmp_path / "small" / WEIGHTS)
    assert found["downloaded"] == found["cached"] == sha256 and not found["torch"]
    files = {path.rpartition("/")[2] for path in found["asked"] if "/resolve/" in path}
    assert files == {"config.json", WEIGHTS}
    assert found["pickled"].startswith(
        f"model.init_from: found no {WEIGHTS} in the hub's someone/pickled-gpt2; allowed: "
    )
    nowhere = "model.init_from: found no folder someone/else and no model of this name in the hub's cache"
    assert found["unknown"] == (
        f"{nowhere} (the hub answered 404); allowed: a model of the hub; a private or gated one needs `hf auth login`"
    )
    assert found["unreachable"].startswith(f"{nowhere}, and the hub cannot be reached; allowed: a folder: on a machine")
    assert "`hf download someone/else config.json model.safetensors --local-dir DIR`" in found["unreachable"]


def test_offline_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(
        StartError, match=r"no model of this name in the hub's cache, and HF_HUB_OFFLINE is set; allowed"
    ):
        find_source("no-such-owner/no-such-model")


def test_without_the_library_the_sentence_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def absent(name: str, *rest: Any, **more: Any) -> Any:
        if name.startswith("huggingface_hub"):
            raise ImportError(name)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(StartError, match=r'found no folder someone/else; .*: pip install -e "\.\[hub\]"$'):
        find_source("someone/else")


def test_what_may_be_an_id_of_the_hub() -> None:
    assert all(map(may_be_hub_id, ("gpt2", GPT2, "a.b_c-d/1")))
    assert not any(map(may_be_hub_id, ("./gpt2", "a/b/c", "/gpt2", "~/gpt2", "a--b", "..", "a b", "", "gpt2/", "é")))


@pytest.mark.slow
def test_gpt2_itself_has_the_logits_of_transformers() -> None:
    """Where the hub can be reached, or its cache has the model: 0.5 GB."""
    done = in_a_process("-c", COMPARE)
    if done.returncode and any(words in done.stderr for words in ("cannot be reached", "HF_HUB_OFFLINE is set")):
        pytest.skip("the hub cannot be reached")
    assert done.returncode == 0, done.stderr
    apart, loss, _ = json.loads(done.stdout.splitlines()[-1])
    assert apart < 2e-3  # logits are around -100
    assert 2.5 < loss < 4.5  # nats per token; an untrained model has 10.8
