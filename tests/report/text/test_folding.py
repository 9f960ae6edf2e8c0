from __future__ import annotations

from harness.report.text.folding import LONGEST, folded


def test_a_long_caption_is_folded_after_whole_sentences() -> None:
    short = "One sentence. Another." + "x" * (LONGEST - 22)
    assert folded(short) == (short, "")
    sentences = [f"Sentence number {number} about the figure, of a usual length." for number in range(9)]
    start, rest = folded(" ".join(sentences))
    assert f"{start} {rest}" == " ".join(sentences)
    assert start == " ".join(sentences[:4]) and rest.startswith("Sentence number 4")
    assert folded("A single sentence " + "of many words " * 40)[1] == ""
    assert folded("First, with e.g. p = 0.05. d_z: a size. " + "Further. " * 60)[0].startswith("First, with e.g. p")
