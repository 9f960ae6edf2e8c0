"""Short, unique labels of arms: `drop 0.2`, `lr 3e-4 · ctx 256`; `A1`, `A2`, … where those would be too long.

Reports, the terminal and MLflow's pages show labels. Stores know an arm by its name (`harness.config.fields.arm_name`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from harness.config.fields import short_name, value_key
from harness.core.text import printable

LONGEST: Final = 32  # characters of a label; longer ones are replaced by A1, A2, …
_LONGEST_TEXT: Final = 16  # characters of a value that is a text; longer ones are shortened
_DIGITS: Final = 4  # significant digits of a number, if they tell the values of a setting apart

# Path → its word in labels; other settings have their short name.
WORDS: Final[Mapping[str, str]] = {
    "data.path": "file",
    "model.context_length": "ctx",
    "model.drop_rate": "drop",
    "model.emb_dim": "width",
    "model.init_from": "from",
    "model.n_heads": "heads",
    "model.n_layers": "layers",
    "model.qkv_bias": "bias",
    "model.tie_embeddings": "tied",
    "train.budget.epochs": "epochs",
    "train.budget.steps": "steps",
    "train.budget.tokens": "tokens",
    "train.final_fraction": "final",
    "train.grad_clip": "clip",
    "train.learning_rate": "lr",
    "train.optimizer": "opt",
    "train.weight_decay": "wd",
}

_NONE: Final = {"model.init_from": "scratch"}  # path → the word for no value, in place of `none`


@dataclass(frozen=True)
class ArmLabels:
    """The labels of a sweep's arms.

    Attributes:
        names: of the arms, in the order of the spec.
        descriptive: arm → its differing settings, shortened.
        codes: arm → `A1`, `A2`, ….
        words: word in `descriptive` → path of the setting, where the word is not the last part of the path.
        exact: whether every setting can be read from `descriptive`.
    """

    names: tuple[str, ...]
    descriptive: Mapping[str, str]
    codes: Mapping[str, str]
    words: Mapping[str, str]
    exact: bool

    @property
    def coded(self) -> bool:
        """Whether labels are codes."""
        return max(map(len, self.descriptive.values()), default=0) > LONGEST

    @property
    def of(self) -> Mapping[str, str]:
        """Arm → its label."""
        return self.codes if self.coded else self.descriptive

    @property
    def numbered(self) -> Mapping[str, str]:
        """Arm → `A3 · drop 0.2`, for places that cut names after a few characters; one arm has no number."""
        if len(self.names) < 2:
            return self.of
        return {name: f"{code} · {self.descriptive[name]}" for name, code in self.codes.items()}

    @property
    def of_arms(self) -> Mapping[str, str]:
        """Label → arm."""
        return {label: name for name, label in self.of.items()}

    def fitting(self, room: int) -> Mapping[str, str]:
        """Arm → its label if every label has at most `room` characters, else its code."""
        return self.of if max(map(len, self.of.values()), default=0) <= room else self.codes

    @property
    def key(self) -> list[tuple[str, str]]:
        """Label and name of each arm, where labels do not give all settings; else empty."""
        return [] if self.exact and not self.coded else [(self.of[name], name) for name in self.names]

    @property
    def explained(self) -> str:
        """The words of the labels in one sentence, `drop is model.drop_rate.`; empty for codes."""
        if self.coded or not self.words:
            return ""
        return f"{', '.join(f'{word} is {path}' for word, path in self.words.items())}."


@dataclass(frozen=True)
class SettingLabels:
    """How labels write one setting.

    Attributes:
        word: for its path.
        texts: `repr` of a value's key → the value as text.
        exact: whether the texts give every value without loss.
    """

    word: str
    texts: Mapping[str, str]
    exact: bool

    def text(self, value: Any) -> str:
        """A value: `0.2`, `3e-4`, `on`."""
        return self.texts[repr(_key(value))]

    def of(self, value: Any) -> str:
        """The setting: `drop 0.2`."""
        return f"{self.word} {self.text(value)}"


def setting_labels(levels: Mapping[str, Sequence[Any]]) -> dict[str, SettingLabels]:
    """Path → its labels: each path has a word of its own, and each value of a path a text of its own."""
    words = _words(list(levels))
    return {
        path: SettingLabels(words[path], *_value_texts(values, _NONE.get(path, "none")))
        for path, values in levels.items()
    }


def arm_labels(arms: Mapping[str, Mapping[str, Any]]) -> ArmLabels:
    """The labels of arms, from their names and compared values (dotted path → value), in the order of the spec."""
    names = tuple(arms)
    codes = {name: f"A{place}" for place, name in enumerate(names, 1)}
    paths = list(dict.fromkeys(path for values in arms.values() for path in values))
    differing = [path for path in paths if len({repr(_key(arms[name].get(path))) for name in names}) > 1]
    shown = differing or paths  # equal arms have a number
    written = setting_labels({path: [arms[name][path] for name in names if path in arms[name]] for path in shown})
    exact = all(setting.exact for setting in written.values())
    descriptive = {
        name: " · ".join(setting.of(arms[name][path]) for path, setting in written.items() if path in arms[name])
        or "all"
        for name in names
    }
    if len(set(descriptive.values())) < len(names):
        if differing:  # texts of different values are equal
            descriptive, exact = dict(codes), False
        else:
            descriptive = {
                name: text + (f" ({place})" if place > 1 else "")
                for place, (name, text) in enumerate(descriptive.items(), 1)
            }
    return ArmLabels(names, descriptive, codes, explained_words(written), exact)


def explained_words(settings: Mapping[str, SettingLabels]) -> dict[str, str]:
    """Word → path, where the word is not the last part of the path."""
    return {one.word: path for path, one in settings.items() if one.word != path.rpartition(".")[2]}


def labelled(name: str, arm: str, label: str) -> str:
    """The name of a run, which begins with the name of its arm, with the arm's label instead."""
    rest = name.removeprefix(arm)
    return f"{label}{rest}" if arm and name.startswith(arm) and not rest[:1].isalnum() else name


def shown_name(name: str, arm: str, numbered: str) -> str:
    """The name of a run as reports show it.

    Args:
        name, arm: of the run.
        numbered: its arm in `ArmLabels.numbered`; empty: not known.
    """
    code, _, descriptive = numbered.partition(" · ")
    if not re.fullmatch(r"A\d+", code):
        code, descriptive = "", numbered  # a sweep of one arm has no numbers
    return labelled(name, arm, code if code and len(descriptive) > LONGEST else descriptive) if numbered else name


def _words(paths: Sequence[str]) -> dict[str, str]:
    """Path → its word, unique among these paths."""
    words = {path: WORDS.get(path, short_name(path)) for path in paths}
    return {path: word if list(words.values()).count(word) == 1 else path for path, word in words.items()}


def _key(value: Any) -> tuple[bool, Any]:
    kind, key = value_key(list(value) if isinstance(value, tuple) else value)
    return kind, float(key) if isinstance(key, int) and not isinstance(key, bool) and abs(key) < 2**53 else key


def _value_texts(values: Sequence[Any], none: str = "none") -> tuple[dict[str, str], bool]:
    """Text of each different value of one setting, by the `repr` of its key; and whether the texts give it exactly."""
    different = {repr(_key(value)): value for value in values}
    numbers = {key: value for key, value in different.items() if _is_number(value)}
    texts, exact = _number_texts(numbers)
    plain = {key: none if value is None else _text(value) for key, value in different.items() if key not in numbers}
    short = _short_texts(list(plain.values()))
    return texts | {key: short[text] for key, text in plain.items()}, exact and all(
        short[text] == text for text in plain.values()
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _number_texts(numbers: Mapping[str, float]) -> tuple[dict[str, str], bool]:
    for digits in range(_DIGITS, 18):
        texts = {key: _number(value, digits) for key, value in numbers.items()}
        if len(set(texts.values())) == len(texts):
            return texts, all(float(texts[key]) == value for key, value in numbers.items())
    return {key: repr(value) for key, value in numbers.items()}, True


def _number(value: float, digits: int) -> str:
    """A number with at most this many significant digits, in a short form: `0.0`, `0.1`, `3e-4`, `16384`, `1e6`."""
    if isinstance(value, int) and abs(value) < 10**6:
        return str(value)
    if not math.isfinite(value):
        return str(value)
    if isinstance(value, float) and value == int(value) and abs(value) < 1000:
        return f"{value:.1f}"  # as in the spec, where 0.0 is a rate
    mantissa, _, exponent = f"{value:.{digits - 1}e}".partition("e")
    mantissa = mantissa.rstrip("0").rstrip(".") if "." in mantissa else mantissa
    scientific = f"{mantissa}e{int(exponent)}"
    plain = f"{float(f'{value:.{digits}g}'):f}".rstrip("0").rstrip(".") if abs(int(exponent)) < 6 else scientific
    return plain if len(plain) <= len(scientific) and float(plain) == float(scientific) else scientific


def _text(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "none", True: "on", False: "off"}[value]
    if isinstance(value, (list, tuple)):
        return "+".join(_text(item) if not _is_number(item) else _number(item, 17) for item in value)
    return printable(" ".join(str(value).split()))


def _short_texts(texts: Sequence[str]) -> dict[str, str]:
    """Each text in a short form that no other one has: a path without folders, a text without what all begin with."""
    if not texts or max(map(len, texts)) <= _LONGEST_TEXT:
        return {text: text for text in texts}
    for shorten in (_ends_of_paths, _without_common_start):
        short = shorten(texts)
        if len(set(short)) == len(set(texts)) and max(map(len, short)) <= _LONGEST_TEXT:
            return dict(zip(texts, short, strict=True))
    return dict(zip(texts, _ends_of_paths(texts), strict=True))  # longer, but without folders


def _ends_of_paths(texts: Sequence[str]) -> list[str]:
    """The last parts of paths, as few as tell them apart."""
    parts = [re.split(r"[/\\]", text) for text in texts]
    for count in range(1, max(map(len, parts)) + 1):
        ends = ["/".join(one[-count:]) for one in parts]
        if len(set(ends)) == len(set(texts)):
            return ends
    return list(texts)


def _common_start(texts: Sequence[str]) -> str:
    low, high = min(texts), max(texts)  # what these begin with, all do
    size = next((at for at, (one, other) in enumerate(zip(low, high, strict=False)) if one != other), len(low))
    return low[:size]


def _without_common_start(texts: Sequence[str]) -> list[str]:
    """Texts with … for their common beginning; where their ends are equal too, with … for both."""
    start = _common_start(texts)
    rest = [text[len(start) :] for text in texts]
    end = _common_start([text[::-1] for text in rest])
    middle = [text[: len(text) - len(end)] for text in rest]
    marks = ("…" if len(start) > 1 else start, "…" if len(end) > 1 else end[::-1])
    return [f"{marks[0]}{text}{marks[1]}" for text in middle]
