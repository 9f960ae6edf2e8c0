"""What the searches of a sweep minimise: decided here, and handed to studies, screen, status and report.

The loss per token compares models that predict the same tokens. Candidates with different tokens of one text are
compared by bits per byte; candidates that are validated on different texts cannot be compared at all.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from harness.config.fields import value_key
from harness.config.mixture import plain_path
from harness.core import metrics
from harness.core.metrics import Point, sample_metric

TOKENIZER: Final = "data.tokenizer"
VOCABULARY: Final = "data.vocab"
TOKENS: Final = (TOKENIZER, VOCABULARY)  # fields that decide what the tokens of a text are

# Fields that decide which text is validated: they can be compared, as arms that are not ranked, but not tuned. So are
# those of the same name of a mixture's sources; their weights decide only what is trained on.
TEXTS: Final = (
    *("data.corpus", "data.path", "data.url", "data.sha256", "data.format", "data.field", "data.separator"),
    "data.windows",
    *("data.val_path", "data.test_path", "data.split.val", "data.split.test", "data.split.by", "data.split.seed"),
)

# Of these, fields that decide the training text alone where validation and test have texts of their own, or no share.
TRAINING_TEXTS: Final = ("data.corpus", "data.path", "data.url", "data.sha256")


@dataclass(frozen=True)
class Objective:
    """What the trials of a sweep minimise, and whether its arms can be compared by it.

    Attributes:
        metric: `val/loss`, in nats per token, or `val/bits_per_byte`.
        ranked: whether the values of different arms can be compared: False if they validate different texts.
    """

    metric: str = metrics.VAL_LOSS
    ranked: bool = True

    @property
    def unit(self) -> str:
        """A short name for columns and lines: `loss` or `bits/byte`."""
        return "loss" if self.metric == metrics.VAL_LOSS else "bits/byte"


LOSS: Final = Objective()


def search_objective(
    arms: Iterable[Mapping[str, Any]], tune: Mapping[str, Sequence[Any]], held_out: bool = False
) -> Objective:
    """The objective of a sweep.

    Args:
        arms: the compared values of each arm, dotted path → value.
        tune: dotted path → the options or the ends of each tuned dimension.
        held_out: whether no part of the training text is validated or tested. It decides `ranked` alone.
    """
    compared = list(arms)
    paths = dict.fromkeys(path for arm in compared for path in arm)
    different = [plain_path(path) for path in paths if plain_path(path) in TEXTS and _differs(path, compared)]
    ranked = not any(path not in TRAINING_TEXTS for path in different) if held_out else not different
    same_tokens = not tunes_tokens(tune) and not _differs(TOKENIZER, compared)
    return Objective(metrics.VAL_BITS_PER_BYTE if different or not same_tokens else metrics.VAL_LOSS, ranked)


def tunes_tokens(tune: Mapping[str, Sequence[Any]]) -> bool:
    """Whether the candidates of an arm differ in their tokens."""
    return any(len(tune.get(path, ())) > 1 for path in TOKENS)


def _differs(path: str, arms: Sequence[Mapping[str, Any]]) -> bool:
    return len({value_key(arm.get(path)) for arm in arms}) > 1


def curve_value(point: Point, metric: str) -> float | None:
    """The value of a validation metric at a point, for curves and pruning; None if the point has none.

    In runs with a validation sample it is the sample's value, else that of the whole split (`Point.curve_loss`).
    """
    return point.metrics.get(sample_metric(metric), point.metrics.get(metric))
