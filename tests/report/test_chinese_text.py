"""A Chinese text from its file to the report: names, samples, tokens and figures, without a warning on the terminal."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import pytest

from in_process import call
from sandbox import Sandbox

LINES = (
    "学而时习之，不亦说乎？有朋自远方来，不亦乐乎？人不知而不愠，不亦君子乎？",
    "其为人也孝弟，而好犯上者，鲜矣；君子务本，本立而道生。",
    "巧言令色，鲜矣仁！吾日三省吾身：为人谋而不忠乎？",
)
SPEC = """\
name: tiny
question: 哪一种文本更好？
data: {path: 论语.txt, tokenizer: char}
model: {context_length: 16, emb_dim: 32, n_heads: 2, n_layers: 1}
train:
  budget: {steps: 30}
  batch_size: 8
  eval_every: {steps: 15}
  sample: {prompt: 学而时习之, max_new_tokens: 8}
compare: {data.path: [论语.txt, 孟子.txt]}
study: {seeds: 1}
"""


@pytest.mark.slow
def test_a_chinese_text_is_shown_as_it_is(tmp_path: Path) -> None:
    sandbox = Sandbox(tmp_path / "sweep", SPEC)
    (sandbox.folder / "论语.txt").write_text("\n".join(LINES * 12), "utf-8")
    (sandbox.folder / "孟子.txt").write_text("\n".join(LINES[::-1] * 12), "utf-8")
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "Glyph")
        done = call(sandbox, "tiny.yaml", "--workers", "1", figures=True)
    assert done.returncode == 0, done.stderr
    assert "file 论语.txt" in done.stdout and "Glyph" not in done.stderr
    folder = sandbox.folder / "reports" / "tiny"
    for name in ("report.md", "report.html"):
        text = (folder / name).read_text("utf-8")
        assert "哪一种文本更好？" in text and "file 孟子.txt" in text
        assert re.search(r"学而时习之[，、不亦]", text)  # a sample
    page = (folder / "report.html").read_text("utf-8")
    assert "“乎” probability" in page  # a token of the passage
    curves = (folder / "figures" / "loss-curves.svg").read_text("utf-8")
    assert curves.count("论语.txt") > 0
