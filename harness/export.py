"""Export a run's model to transformers: `python -m harness.export RUN DIR`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from harness.console.cli import ArtifactsAt, Command, Tracking, fail, out
from harness.core.disk import disk_error

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)

_EPILOG = """
Examples:
  python -m harness.export 0a1b2c my-gpt
  python -m harness.export "drop_rate=0.0 · seed 2" my-gpt

Then, in Python:
  AutoModelForCausalLM.from_pretrained("my-gpt")
  AutoTokenizer.from_pretrained("my-gpt")
"""


@app.command(cls=Command, epilog=_EPILOG)
def main(
    run: Annotated[
        str,
        typer.Argument(metavar="RUN", help="A run's id, the start of it, the run's name, or a checkpoint folder."),
    ],
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A new or empty folder.")],
    tracking: Tracking = None,
    artifacts_at: ArtifactsAt = None,
) -> None:
    """Write a folder that Hugging Face's transformers loads: weights, configuration, tokenizer and a model card.

    Logits are the same up to rounding, ids the same for every text. Only confirm runs keep a checkpoint.
    """
    from harness.console.preflight import wrong_tracking

    if wrong := wrong_tracking(tracking):
        fail("\n".join(wrong))
    from harness.data import CorpusError
    from harness.model.weights import CheckpointError
    from harness.tracking import TrackingError
    from harness.training.export import export_model

    try:
        files = export_model(run, folder, tracking)
    except (TrackingError, CheckpointError) as error:
        fail(error)
    except CorpusError as error:
        fail(f"{error.field}: {error}")
    except FileExistsError as error:
        fail(f"DIR: {error}")
    except OSError as error:
        fail(disk_error(error))
    for file in files:
        out.print(str(file), soft_wrap=True)


if __name__ == "__main__":
    app(prog_name="python -m harness.export")
