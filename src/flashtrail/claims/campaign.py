"""Everything that one run of the workflow left behind, by name: tables per arm, profile, records, verdicts.

The workflow hands over lists of files; this is where they become frames and dictionaries, each read once and only when
asked for.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from flashtrail.base import provenance
from flashtrail.base.errors import UserError, nearest
from flashtrail.claims import looks, published, summaries
from flashtrail.tables import endings, keys, links, measurements, schemas

# kind: where the name (a policy's, an environment's) stands in the path
_NAME_OF = {
    "records": "directory",
    "boots": "directory",
    "smokes": "directory",
    "parity": "stem",
    "environments": "stem",
}
KINDS = (
    *("episodes", "rounds", "steps", "summaries", "profile", "records", "parity", "boots", "smokes"),
    *("claims", "environments", "published", "control", "arms", "grids", "chapters", "sheets"),
    *("pages", "page_index", "checkup", "bounds", "diagnosis", "logs", "looks", "asked", "repeat"),
    *("measured", "datasets", "dataset_sheets", "success"),
)
_PLAIN = ("arms", "grids", "asked", "repeat", "success")  # kinds that are not files


class Campaign:
    """The files of a run. `inputs` maps a kind (see KINDS) to one path or a list of paths; `arms` is a list of names
    and `grids` maps arms to their cells (`experiment.arms.Cell`); `asked` says who asks for this look (looks.py);
    `repeat` is the command that makes the report again; `success` is the one that each k/n counts: `verified` where the
    claims are about that one and every episode says it, else the simulator's.

    Kinds that are absent read as empty, so that a chapter can be given its part only.
    """

    def __init__(self, inputs: Mapping[str, Any] | str | Path) -> None:
        files: Mapping[str, Any] = provenance.json_load(inputs) if isinstance(inputs, str | Path) else inputs
        for kind in files:
            if kind not in KINDS:
                raise UserError(f"report inputs: unknown kind {kind!r}{nearest(kind, KINDS)}")
        self._files = {kind: _paths(value) for kind, value in files.items() if kind not in _PLAIN}
        self._judged: dict[str, pd.DataFrame] = {}
        self.asked = str(files.get("asked", "report"))
        self.repeat = str(files.get("repeat", ""))
        self._success = str(files.get("success", "simulator"))
        self._pairs: dict[tuple[str, str], pd.DataFrame] = {}
        self._order = [str(arm) for arm in files.get("arms", [])]
        self.grids: dict[str, dict[str, Any]] = {str(arm): dict(cell) for arm, cell in files.get("grids", {}).items()}

    @classmethod
    def of_frames(cls, **frames: Any) -> Campaign:
        """Return a campaign of frames that are in memory: `episodes`, `rounds`, `profile`; the others are empty."""
        campaign = cls({})
        for name, frame in frames.items():
            campaign.__dict__[name] = frame  # where cached_property keeps what was read
        return campaign

    def files(self, kind: str) -> list[Path]:
        """Return the files of a kind; none given is an empty list."""
        return self._files.get(kind, [])

    def _one(self, kind: str) -> dict[str, Any] | None:
        """Return the JSON record of a kind that has one file at most."""
        files = self.files(kind)
        return provenance.json_load(files[0]) if files else None

    @cached_property
    def episodes(self) -> pd.DataFrame:
        """Return all episodes of all arms; a task number with two texts is refused."""
        episodes = self._recorded
        return episodes.assign(success=episodes["verified_success"].eq(True)) if self.verified else episodes

    @cached_property
    def _recorded(self) -> pd.DataFrame:
        return keys.one_text(schemas.read_tables(self.files("episodes"), schemas.EPISODES).to_pandas())

    @cached_property
    def verified(self) -> bool:
        """Return whether the success that is counted is the verified one."""
        seen = endings.judged(self._recorded)["verified_success"] if self._success == "verified" else pd.Series()
        return bool(len(seen) and seen.notna().all())

    @property
    def success_words(self) -> str:
        """Return which success is counted."""
        own = "the simulator\u2019s own test"
        return f"verified ({own}, and the behaviour was seen)" if self.verified else own

    @cached_property
    def rounds(self) -> pd.DataFrame:
        """Return all rounds of all arms."""
        return schemas.read_tables(self.files("rounds"), schemas.ROUNDS).to_pandas()

    @cached_property
    def sheets(self) -> pd.DataFrame:
        """Return the contact sheets of all arms: key, outcome, jpeg."""
        return schemas.read_tables(self.files("sheets"), schemas.SHEETS).to_pandas()

    @cached_property
    def profile(self) -> pd.DataFrame:
        """Return the profile's timed rounds, warm-up left out."""
        profile = schemas.read_tables(self.files("profile"), schemas.PROFILE).to_pandas()
        return profile[~profile["warmup"].astype(bool)]

    @cached_property
    def machine(self) -> dict[str, Any] | None:
        """Return how busy the machine was while the profile was measured; None where that was not recorded."""
        recorded = self.profile_metadata.get("machine")
        return json.loads(recorded) if recorded else None

    @cached_property
    def arms(self) -> list[str]:
        """Return the arms that have episodes, in the experiment's order where it is known."""
        present = list(dict.fromkeys(self.episodes["arm"]))
        return [arm for arm in self._order if arm in present] + [arm for arm in present if arm not in self._order]

    def judged(self, arm: str) -> pd.DataFrame:
        """Return one arm's episodes that ended in success or at the horizon, in the order of their keys."""
        if arm not in self._judged:
            episodes = endings.judged(self.of_arm("episodes", arm))
            self._judged[arm] = episodes.sort_values(list(schemas.PAIR_KEY), kind="stable", ignore_index=True)
        return self._judged[arm]

    def pairs(self, arm: str, control: str) -> pd.DataFrame:
        """Return the judged episodes that both arms have (`keys.pairs`); several claims are about the same two arms.

        None of an imported arm whose record does not tell initial states: its numbers only count the episodes.
        """
        if (arm, control) not in self._pairs:
            known = not any(self._origin(name).get("starts") for name in (arm, control))
            own = self.judged(arm)
            self._pairs[arm, control] = keys.pairs(own if known else own.head(0), self.judged(control))
        return self._pairs[arm, control]

    def by_verification(self) -> Campaign:
        """Return this campaign with verified success in the place of the simulator's; not verified is a failure."""
        campaign = copy.copy(self)
        verified = self.episodes["verified_success"].eq(True)
        campaign._judged, campaign._pairs = {}, {}
        campaign.__dict__["episodes"] = self.episodes.assign(success=verified)
        return campaign

    def of_arm(self, table: str, arm: str) -> pd.DataFrame:
        """Return one arm's rows of `episodes` or `rounds`."""
        frame = getattr(self, table)
        return frame[frame["arm"] == arm]

    @cached_property
    def summaries(self) -> dict[str, dict[str, Any]]:
        """Return the summaries by arm, in the order of `arms`."""
        by_arm = {s["arm"]: s for s in map(provenance.json_load, self.files("summaries"))}
        order = self.arms or list(by_arm)
        if self.verified:
            by_arm = {arm: s | summaries.successes(self.of_arm("episodes", arm)) for arm, s in by_arm.items()}
        if not any(summary["routes"]["draft"] for summary in by_arm.values()):
            by_arm = {arm: s | {"routes": s["routes"] | {"offered": False}} for arm, s in by_arm.items()}
        return {arm: by_arm[arm] for arm in order if arm in by_arm}

    @property
    def drafts(self) -> bool:
        """Whether any arm drafted, or there is none: a run without drafts has no word about routes."""
        return not self.summaries or any(summary["routes"]["draft"] for summary in self.summaries.values())

    @property
    def plain_summaries(self) -> dict[str, dict[str, Any]]:
        """Return the summaries of the arms that are in no grid and whose clock is paused (all, where there is none)."""
        excluded = {*self.grids, *self.running}
        return {arm: summary for arm, summary in self.summaries.items() if arm not in excluded} or self.summaries

    @cached_property
    def usual_policies(self) -> dict[str, str]:
        """Return by suite the policy that most arms use, the first of several; a remedy is another one, or a guard."""
        used: dict[str, list[str]] = {}
        for summary in self.summaries.values():
            used.setdefault(summary["suite"], []).append(summary["policy"])
        return {suite: max(policies, key=policies.count) for suite, policies in used.items()}

    def usual_policy(self, summary: Mapping[str, Any]) -> str:
        """Return the usual policy of an arm's suite."""
        return self.usual_policies[summary["suite"]]

    def control_of(self, arm: str) -> str | None:
        """Return the arm of the same suite, condition and limits without this one's remedy; None where it has none.

        Without its guard, without hand-overs, or with the usual policy. Where the record does not say the condition
        (imported runs), it is the arm that this one's name ends with.
        """
        summary = self.summaries[arm]
        helped = bool(summary.get("guard") or summaries.setting(summary, "handoff"))
        policy = summary["policy"] if helped else self.usual_policy(summary)
        condition = summaries.setting(summary, "condition")
        for name, other in self.plain_summaries.items():
            plain = not other.get("guard") and other["policy"] == policy and other["suite"] == summary["suite"]
            plain = plain and summaries.acting_limits(other) == summaries.acting_limits(summary)
            plain = plain and not summaries.setting(other, "handoff")
            alike = arm.endswith(name) if condition is None else summaries.setting(other, "condition") == condition
            if name != arm and plain and alike and (helped or summary["policy"] != policy):
                return name
        return None

    def without_fault(self, arm: str) -> str | None:
        """Return an arm without a fault or a guard that otherwise ran alike (`summaries.setup`); None without any."""
        own, among = summaries.setup(self.summaries[arm], "guard"), {**self.plain_summaries, **self.running}
        plain = {name: s for name, s in among.items() if not (s["condition"]["rounds_hit"] or s["guard"])}
        return self._nearest(arm, [name for name, s in plain.items() if summaries.setup(s, "guard") == own])

    def reference_of(self, arm: str) -> str:
        """Return the arm of the same suite, without a fault, that this one is held against.

        It ran alike but for this one's hand-overs, else its fault or, without a fault, its limits. Where none did, it
        is one of the same limits, of the usual policy if there is one.
        """
        if summaries.setting(self.summaries[arm], "handoff") and (alone := self.control_of(arm)):
            return alone
        own, limits = self.summaries[arm], {name: summaries.acting_limits(s) for name, s in self.summaries.items()}
        suite = {name: s for name, s in self.summaries.items() if s["suite"] == own["suite"]}
        clean = {name: s for name, s in suite.items() if not s["condition"]["rounds_hit"]}
        alike = [n for n, s in clean.items() if summaries.setup(s, "limits") == summaries.setup(own, "limits")]
        free = [name for name in alike if limits[arm] and not limits[name]]
        near = self._nearest(arm, free) if arm in clean else self.without_fault(arm)
        same = [name for name in suite if limits[name] == limits[arm]]
        plain = [name for name in same if name in clean]
        usual = [name for name in plain if suite[name]["policy"] == self.usual_policy(own)]
        return near or self._nearest(arm, usual or plain or same) or arm

    def _nearest(self, arm: str, among: Sequence[str]) -> str | None:
        """Return the first of some arms that has a task of this one, else the first."""
        tasks = {name: {task["task_id"] for task in self.summaries[name]["tasks"]} for name in (arm, *among)}
        return next((name for name in among if tasks[name] & tasks[arm]), next(iter(among), None))

    @property
    def running(self) -> dict[str, dict[str, Any]]:
        """Return the summaries of the arms under a running clock."""
        return {arm: summary for arm, summary in self.summaries.items() if summary.get("clock")}

    @cached_property
    def claims(self) -> dict[str, Any] | None:
        """Return the evaluated claims, or None."""
        return self._one("claims")

    @cached_property
    def looked(self) -> list[dict[str, Any]]:
        """Return the looks at the claims on record, none where none are kept."""
        return [look for path in self.files("looks") for look in looks.read(path)]

    @cached_property
    def checkup(self) -> dict[str, Any] | None:
        """Return the checkup's record, or None."""
        return self._one("checkup")

    def records(self, kind: str) -> dict[str, dict[str, Any]]:
        """Return JSON records of a kind by policy: records, parity, boots or smokes; environments by their own name."""
        by_stem = _NAME_OF[kind] == "stem"
        return {path.stem if by_stem else path.parent.name: provenance.json_load(path) for path in self.files(kind)}

    def smoke_episodes(self) -> dict[str, pd.DataFrame]:
        """Return the smoke test's episodes by policy; they lie beside its ledger."""
        return {
            path.parent.name: schemas.read_table(path.with_name("episodes.parquet"), schemas.EPISODES).to_pandas()
            for path in self.files("smokes")
        }

    @cached_property
    def measured(self) -> dict[str, measurements.Measurement]:
        """Return the measurements by name."""
        return {path.stem: measurements.read(path) for path in self.files("measured")}

    @cached_property
    def datasets(self) -> dict[str, dict[str, Any]]:
        """Return the records of the sets of demonstrations by name (datasets/survey.py)."""
        return {path.stem: provenance.json_load(path) for path in self.files("datasets")}

    @cached_property
    def dataset_sheets(self) -> dict[str, bytes]:
        """Return the first and last pictures of the sets, JPEGs, by name."""
        return {path.stem: path.read_bytes() for path in self.files("dataset_sheets")}

    @cached_property
    def control(self) -> dict[str, Any] | None:
        """Return the full-against-full control of the accepted prefix, or None where it was not measured."""
        return self._one("control")

    @cached_property
    def published(self) -> published.Published | None:
        """Return other people's figures, or None where none were given."""
        files = self.files("published")
        return published.load(files[0]) if files else None

    @cached_property
    def metadata(self) -> dict[str, dict[str, str]]:
        """Return each arm's file metadata: digests of config, artifact and code, and the device."""
        result = {}
        for path in self.files("episodes"):
            arms = schemas.read_table(path, schemas.EPISODES, ["arm"])["arm"].unique().to_pylist()
            result.update(dict.fromkeys(arms, schemas.read_metadata(path)))
        return {arm: result[arm] for arm in self.arms if arm in result}

    @cached_property
    def simulated(self) -> bool:
        """Return True if any table is marked as simulated: every page must say so."""
        files = [*self.files("episodes"), *self.files("profile")]
        if any(schemas.read_metadata(path).get("simulated") for path in files):
            return True
        return any(s.get("metadata", {}).get("simulated") for s in self.summaries.values())

    @cached_property
    def imported(self) -> list[str]:
        """Return what the imported tables say of their origin, without repetition; empty for runs of our own."""
        origins = [metadata.get("imported", "") for metadata in (*self.metadata.values(), self.profile_metadata)]
        return list(dict.fromkeys(text for text in origins if text))

    @cached_property
    def profile_metadata(self) -> dict[str, str]:
        """Return the metadata of the profile's first file; empty where there is none."""
        files = self.files("profile")
        return schemas.read_metadata(files[0]) if files else {}

    def _origin(self, arm: str | None) -> dict[str, str]:
        return self.profile_metadata if arm is None else self.metadata.get(arm, {})

    def source(self, arm: str | None) -> str:
        """Return whose run an imported arm is (None: the profile), as its import named it; empty where it did not."""
        return self._origin(arm).get("source", "")

    def whose(self, arm: str | None) -> str:
        """Return whose rows an arm has (None: the profile): ``ours``, or that they are imported, and from where."""
        metadata = self._origin(arm)
        if not metadata.get("imported"):
            return "ours"
        return f"imported: {metadata.get('source') or metadata['imported']}"

    @cached_property
    def pages(self) -> dict[str, str]:
        """Return, by arm that has pages, where the list of its episodes lies, seen from the reports' directory.

        The pages lie in episodes/ below that directory (`links`), so that it can be moved as a whole.
        """
        lists = {path.parent.name: "/".join(path.parts[-3:]) for path in self.files("pages")}
        arms = self.arms or list(self.summaries)
        return {arm: lists[links.directory(arm)] for arm in arms if links.directory(arm) in lists}

    def devices(self) -> list[str]:
        """Return the devices that the tables name, without repetition."""
        names = [one.get("device", "") for one in self.metadata.values()] + list(self.profile["device"].unique())
        return list(dict.fromkeys(name for name in names if name))


def _paths(value: Any) -> list[Path]:
    if isinstance(value, str | Path):
        return [Path(value)]
    if isinstance(value, Sequence):
        return [Path(v) for v in value]
    raise UserError(f"report inputs: {value!r} is neither a path nor a list of paths")
