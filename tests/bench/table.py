"""The table of measurements: medians, factors against the peers, and the targets."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

PEERS = ("book", "hf", "nanogpt")
PRUNED = ("ours-pruned", "ours-sampled")
OURS = ("ours", "ours-per-core", *PRUNED)
# Target factors by part, case, peer and environment; "*" is any peer.
TARGETS: Mapping[tuple[str, ...], float] = {
    ("throughput", "small", "book", "plain"): 1.6,
    ("throughput", "small", "nanogpt", "plain"): 1.35,
    ("throughput", "124m", "book", "plain"): 1.4,
    ("gpu", "124m-1024", "nanogpt", "plain"): 1.0,
    ("sweep", "full", "*", "plain", "ours"): 3.0,
    ("sweep", "full", "*", "malloc", "ours"): 1.6,
    **{("sweep", "full", "*", "plain", who): 5.0 for who in PRUNED},
    **{("sweep", "full", "*", "malloc", who): 2.5 for who in PRUNED},
}


def read(path: Path) -> list[dict[str, Any]]:
    """The measurements in a file; an incomplete last line is skipped."""
    found = []
    for line in path.read_text("utf-8").splitlines() if path.exists() else []:
        try:
            found.append(json.loads(line))
        except ValueError:
            continue
    return found


def show(measured: Sequence[Mapping[str, Any]]) -> None:
    """Print medians, ratios and targets."""
    if not measured:
        print("nothing measured yet")
        return
    for about in sorted(
        {f"{m['cpu']}, {m['cores']} cores, torch {m['torch']}, commit {m['commit']}" for m in measured}
    ):
        print(about)
    # The measurements themselves cause a load of about one per core.
    busy = sum(m["load_before"] > 1.5 * (m["cores"] or 1) for m in measured)
    if busy:
        print(f"warning: {busy} of {len(measured)} measurements started while the machine was busy with other work")
    for part in ("throughput", "sweep", "gpu"):
        for case in dict.fromkeys(m["case"] for m in measured if m["part"] == part):
            show_case(part, case, [m for m in measured if m["part"] == part and m["case"] == case])
    if figures := [m for m in measured if m["part"] == "micro"]:
        print(f"\n{'micro':<32} {'figure':>12} {'limit':>12}")
        for m in figures:
            limit = f"{m['limit']:g} {m['unit']}" if m["limit"] is not None else ""
            verdict = "" if m["limit"] is None else ("ok" if m["value"] <= m["limit"] else "MISSED")
            print(f"{m['who']:<32} {m['value']:>10.3g} {m['unit']:<3} {limit:>10}  {verdict:<7} {m.get('note', '')}")


def show_case(part: str, case: str, measured: Sequence[Mapping[str, Any]]) -> None:
    """Print the table of one part and case."""
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for m in measured:
        groups.setdefault((m["who"], m["env"]), []).append(m)
    median = {key: statistics.median(m["value"] for m in group) for key, group in groups.items()}
    ours = [key for key in groups if key[0] in OURS]
    unit = measured[0]["unit"]
    print(f"\n{part} {case}: {'less is better' if part == 'sweep' else 'more is better'}, {unit}")
    heading = f"{'who':<14} {'settings':<9} {'runs':>4} {'median':>9} {'range':>17} {'CPU s':>8} {'RSS MB':>7}"
    print(heading + "".join(f" {'× ' + name:>24}" for name, _ in ours))
    for key, group in groups.items():
        values = [m["value"] for m in group]
        spread = f"{min(values):.4g}–{max(values):.4g}"
        cpu, rss = (statistics.median(m[name] for m in group) for name in ("cpu_seconds", "rss_mb"))
        line = f"{key[0]:<14} {key[1]:<9} {len(group):>4} {median[key]:>9.4g} {spread:>17} {cpu:>8.1f} {rss:>7.0f}"
        if key[0] in PEERS:
            for mine in ours:
                ratio = median[key] / median[mine] if part == "sweep" else median[mine] / median[key]
                line += f" {judged(ratio, part, case, key, mine[0]):>24}"
        print(line)


def judged(ratio: float, part: str, case: str, peer: tuple[str, str], ours: str) -> str:
    """`1.72 (≥ 1.6 ok)`: a factor, and its target if there is one."""
    who, env = peer
    target = TARGETS.get((part, case, who, env)) if ours == "ours" else None
    target = target or TARGETS.get((part, case, "*", env, ours))
    if target is None:
        return f"{ratio:.2f}"
    return f"{ratio:.2f} (≥ {target:g} {'ok' if ratio >= target else 'MISSED'})"
