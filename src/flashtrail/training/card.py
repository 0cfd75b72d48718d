"""The model card of a shipped policy, written from the figures that the other steps left on disk.

Its success is written a second time for machines, as resources/published/NAME.yaml, for the checkup to compare with.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from flashtrail.base.errors import UserError
from flashtrail.base.provenance import json_load, write_atomic
from flashtrail.training import evaluate, pipeline

_LIMITS = """\
## What it is not
- Not `pi0_libero` and not a distillate of it: nothing was downloaded, no dataset was used, and its success says
  nothing of that model's. It shares the structure, the conventions and the code path, not the ability.
- Trained on three tasks of one simulator with one robot, from a scripted expert that reads the true state. Another
  instruction, object, camera or lighting is outside of what it has seen.
- Its evaluation is of init states 0-9, which no demonstration used; the scenes' fixtures vary as LIBERO samples them.
  One training seed. The intervals are Wilson's, for episodes taken as independent.
"""


def write(work: pipeline.Workplace, name: str) -> Path:
    """Write resources/NAME/README.md and resources/published/NAME.yaml; what has no figures is left out."""
    publish(work, name)
    recipe = pipeline.RECIPES[name]
    saved = torch.load(work.variant(name) / "run.pt", weights_only=True)
    parts = [f"# {name}\n", _intro(name, sum(v.numel() for v in saved["average"].values())), _results(work, name)]
    parts += [_data(work), _training(work, name, saved), _draft(work, name), _comparison(work), _LIMITS]
    notes = work.root / "notes.md"  # a person's remarks on this run
    if notes.is_file():
        parts.append(notes.read_text(encoding="utf-8"))
    parts.append(
        f"Seeds: demonstrations 2026, initialisation and batches {recipe.seed}, evaluation {evaluate.SEED}. "
        "Remake: `make nano` (docs/training.md).\n"
    )
    target = work.resources / name / "README.md"
    with write_atomic(target) as path:
        path.write_text("\n".join(part for part in parts if part), encoding="utf-8")
    return target


_METHODS = {"evaluation_full": "full", "evaluation_flash": "FLASH"}
_HEAD = """\
# Success of {name} as its model card has it, by task. Written by `python -m flashtrail.training card`.
"""


def publish(work: pipeline.Workplace, name: str) -> Path | None:
    """Write resources/published/NAME.yaml (the format of published.yaml there); None without an evaluation."""
    rows = [row for file, method in _METHODS.items() for row in _success(work.variant(name) / f"{file}.json", method)]
    if not rows:
        return None
    source = {
        "title": f"Model card of {name}",
        "where": f"resources/{name}/README.md",
        "policy": name,
        "hardware": "two CPU cores",
        "setting": "2 views, at most 12 of 50 actions executed, 10 flow steps, horizon 300, hard resets; command-line "
        "defaults of FLASH, or every round full. Demonstrations began at init states 10-49 only",
        "success_scope": "all episodes",
        "latency_scope": "not measured",
    }
    entries = [{"source": name, **row} for row in rows]
    target = work.resources / "published" / f"{name}.yaml"
    with write_atomic(target) as path:
        body = yaml.safe_dump(
            {"version": 1, "sources": {name: source}, "success": entries},
            sort_keys=False,
            default_flow_style=None,
            width=120,
        )
        path.write_text(_HEAD.format(name=name) + body, encoding="utf-8")
    return target


def _success(path: Path, method: str) -> list[dict[str, Any]]:
    """Return an evaluation's counts by task, with the starts they are of."""
    episodes, rows = _figures(path).get("episodes", []), []
    for task in sorted({row["task"] for row in episodes}):
        own = [row for row in episodes if row["task"] == task]
        states, scenes = sorted({row["init_state"] for row in own}), sorted({row["scene"] for row in own})
        if len(own) != len(states) * len(scenes) or scenes != list(range(len(scenes))):
            raise UserError(
                f"{path}: task {task} was not evaluated at every init state with every scene: evaluate again"
            )
        starts = {"seed": evaluate.SEED, "init_states": states, "repeats": len(scenes)}
        count = {"k": sum(bool(row["success"]) for row in own), "n": len(own)}
        rows.append({"method": method, "suite": evaluate.SUITE, "task": task, **count, "starts": starts})
    return rows


def _intro(name: str, parameters: int) -> str:
    text = (
        f"A {parameters / 1e6:.2f} M-parameter policy of the pi0 family for LIBERO's libero_goal tasks 0-2, trained on "
        "a CPU from scripted demonstrations. Vision encoder per view, prefix transformer over both views and the "
        "prompt's tokens, action expert over the prefix's keys and values, flow matching with ten Euler steps, and a "
        "FLASH draft head. It differs from `pi0_libero` in sizes, and in one part: a convolutional stem stands where "
        "SigLIP embeds patches (declared in assets/flashtrail/model.json). Files are in the source layouts: openpi's "
        "Orbax tree in params/, statistics in assets/, SentencePiece model, draft .pt.\n"
    )
    if name == pipeline.DROPOUT:
        text += (
            "\nThis variant continues pi0_nano's training with the wrist view black in 20 % of the samples and masked "
            "out of the prefix in another 10 %: the remedy arm for a failing wrist camera.\n"
        )
    return text


def _figures(path: Path) -> dict[str, Any]:
    """Return what another step wrote; empty where it has not run."""
    return json_load(path) if path.is_file() else {}


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in (heads, ["---"] * len(heads), *rows))


def _count(part: Mapping[str, Any]) -> str:
    low, high = part["wilson95"]
    return f"{part['k']}/{part['n']} [{low:.2f}, {high:.2f}]"


def _results(work: pipeline.Workplace, name: str) -> str:
    rows = []
    for file, label in (
        ("evaluation_full", "full route"),
        ("evaluation_flash", "FLASH, official defaults"),
        ("evaluation_full_wrist_zero_every4", "full route, wrist black every 4th query"),
    ):
        if s := _figures(work.variant(name) / f"{file}.json").get("summary"):
            cells = [_count(s["tasks"][t]) if t in s["tasks"] else "" for t in ("0", "1", "2")]
            drafts = f"{s['draft_rounds']}/{s['rounds']} rounds were draft, {s['accepted_mean']} of 12 accepted"
            rows.append([label, *cells, _count(s["all"]), drafts if s["draft_rounds"] else ""])
    if not rows:
        return ""
    head = (
        "## Success\nThe simulator's own success, k/n with the 95 % Wilson interval: held-out init states 0-9, two "
        "scenes each unless n says otherwise, hard resets, horizon 300, 12 of 50 actions executed a query.\n"
    )
    table = _table(["", "task 0 (drawer)", "task 1 (bowl)", "task 2 (bottle)", "all", ""], rows)
    return "\n".join([head, table, "", _bar(work, name)])


def _bar(work: pipeline.Workplace, name: str) -> str:
    """Compare the full route with the bar; nothing if it was not evaluated in full."""
    summary = _figures(work.variant(name) / "evaluation_full.json").get("summary")
    if not summary or summary["all"]["n"] != 60:
        return ""
    text = f"Bar, full route: at least {evaluate.BAR_TOTAL}/60 in all and {evaluate.BAR_TASK}/20 each. "
    short = [("all", evaluate.BAR_TOTAL - summary["all"]["k"])]
    short += [(f"task {t}", evaluate.BAR_TASK - part["k"]) for t, part in summary["tasks"].items()]
    missed = [f"{label} by {count}" for label, count in short if count > 0]
    return text + (f"It falls short: {', '.join(missed)}.\n" if missed else "It is reached.\n")


def _data(work: pipeline.Workplace) -> str:
    counts, frames = {}, 0
    for task in (0, 1, 2):
        files = sorted((work.demos / f"task{task}").glob("ep*.npz"))
        counts[task] = len(files)
        for file in files:
            with np.load(file) as episode:
                frames += len(episode["at"])
    counted = ", ".join(f"{n} of task {t}" for t, n in counts.items())
    return (
        f"## Data\n{counted}: successful episodes of the scripted expert, init states 10-49 only, {frames} frames "
        "(an image every 4th step). Label = the expert's clean action; executed = noisy, with pushes; about half begin "
        "displaced; objects shifted by up to 1.2 cm; fixtures as LIBERO samples them. Details: docs/training.md.\n"
    )


def _training(work: pipeline.Workplace, name: str, saved: Mapping[str, Any]) -> str:
    with (work.variant(name) / "curve.csv").open(encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    held = [r for r in rows if r["held_out_flow"] != "nan"]
    recipe = saved["recipe"]
    return (
        f"## Training\n{saved['step']} steps of {recipe['batch']} frames with {recipe['draws']} flow draws each, AdamW "
        f"{recipe['rate']:g} with a cosine, averaged weights ({recipe['ema']}), {saved['seconds'] / 60:.0f} min on two "
        f"CPU cores shared with other work. Flow loss {float(rows[-1]['flow']):.3f} train, "
        f"{float(held[-1]['held_out_flow']) if held else float('nan'):.3f} held out. Curve: curve.csv.\n"
    )


def _draft(work: pipeline.Workplace, name: str) -> str:
    f = _figures(work.variant(name) / "agreement.json")
    if not f:
        return ""

    def line(key: str) -> str:
        part = f[key]
        return (
            f"median {part['median']:.3f}, all 12 steps within tau on {part['within']}/{f['n']} frames, leading run "
            f"{part['within_steps_mean']:.1f} of 12"
        )

    return (
        "## Draft head, beside its control\nDistance (RMS of six dims, normalised, first 12 steps) to the full "
        f"route's chunk from zero noise, on held-out frames, tau = {f['tau']}:\n- draft: {line('draft')}\n- control, "
        f"the full route itself from other noise: {line('full_other_noise')}\n\nAcceptance is to be read beside the "
        "control: tau is about the policy's own spread.\n"
    )


def _comparison(work: pipeline.Workplace) -> str:
    f = _figures(work.root / "comparison" / "comparison.json")
    if not f:
        return ""
    rows = []
    for key, label in (("conv_stem", "conv stem"), ("patch_32", "patch 32")):
        losses = f"{f[key]['held_out_flow']:.3f}", f"{f[key]['held_out_auxiliary']:.4f}"
        rows.append([label, f"{f[key]['parameters']:,}", str(f[key]["steps"]), *losses])
    head = (
        f"## Conv stem or patches\nSame data, seed and recipe, {f['seconds']:.0f} s each "
        "(`python -m flashtrail.training compare-vision`):\n"
    )
    table = _table(["encoder", "parameters", "steps", "held-out flow loss", "held-out auxiliary loss"], rows)
    return "\n".join([head, table, ""])
