"""Generate text with the checkpoint of a run: `python -m harness.generate RUN --prompt "Every effort"`."""

from __future__ import annotations

from typing import Annotated

import typer

from harness.console.cli import ArtifactsAt, Command, Tracking, fail, number, out, whole
from harness.core.text import shown

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


_EPILOG = """
Examples:
  python -m harness.generate 0a1b2c --prompt "Every effort"
  python -m harness.generate 0a1b2c --temperature 0.8 --top-k 40 --seed 7
"""


@app.command(cls=Command, epilog=_EPILOG)
def main(
    run: Annotated[
        str, typer.Argument(metavar="RUN", help="A run's id, the start of it, the run's name, or a checkpoint folder.")
    ],
    prompt: Annotated[str, typer.Option(help="The text to continue.")] = "Every effort moves you",
    max_new_tokens: Annotated[
        int, typer.Option(parser=whole(1), metavar="N", help="Number of tokens to generate.")
    ] = 50,
    temperature: Annotated[
        float,
        typer.Option(parser=number(0), metavar="T", help="Sampling temperature; 0 always takes the likeliest token."),
    ] = 0.0,
    top_k: Annotated[
        int | None, typer.Option(parser=whole(1), metavar="K", help="Sample from the K likeliest tokens only.")
    ] = None,
    seed: Annotated[int, typer.Option(parser=whole(0, 2**62), metavar="N", help="Seed of the sampling.")] = 1,
    tracking: Tracking = None,
    artifacts_at: ArtifactsAt = None,
) -> None:
    """Continue a text with the model of a run. Only confirm runs keep a checkpoint."""
    if not prompt:
        fail("--prompt: found an empty text; allowed: at least one character to continue")
    if prompt != prompt.encode(errors="replace").decode():  # the command line had bytes that are not UTF-8
        fail(f"--prompt: found {shown(prompt)}; allowed: a text in UTF-8")
    from harness.console.preflight import wrong_tracking

    if wrong := wrong_tracking(tracking):
        fail("\n".join(wrong))
    from harness.config.run import SampleConfig
    from harness.data import CorpusError
    from harness.model.generation import continue_text
    from harness.model.weights import CheckpointError
    from harness.tracking import TrackingError
    from harness.training.trained_model import load_model

    try:
        model, tokenizer = load_model(run, tracking)
    except (TrackingError, CheckpointError, CorpusError) as error:
        fail(error)
    try:
        tokenizer.encode(prompt)
    except CorpusError as error:  # with data.vocab: corpus, not every text can be encoded
        fail(f"--prompt: {error}")
    sample = SampleConfig(prompt=prompt, max_new_tokens=max_new_tokens, temperature=temperature, top_k=top_k)
    try:
        text = continue_text(model, tokenizer, sample, seed)
    except ValueError as error:
        fail(f"{run}: {error}")
    out.print(text, soft_wrap=True)  # escapes control characters that the model may generate


if __name__ == "__main__":
    app()
