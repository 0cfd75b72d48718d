"""Claims as data: what claims.yaml may say, typed, and the words in which verdicts are given.

A claim states what would refute it before it is judged; `evaluate` gives every claim its computed verdict (verdicts.py
does the judging).

The reproduction that this project grew from (the seed) used other words. SEED_WORDS is the one place that maps ours
onto them:

| ours | theirs | meaning |
|---|---|---|
| supported | supported, or supported_limited where the scope is a few tasks of one policy | the test found it |
| inconclusive | partially_supported_limited | neither found nor excluded: too few episodes |
| refuted | negative_limited | an effect as claimed is excluded |
| not_tested | not_claimed | nothing in this run speaks to it |
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, FiniteFloat, ValidationError, field_validator, model_validator

from flashtrail.base import documents
from flashtrail.base.documents import Section
from flashtrail.base.errors import UserError, nearest
from flashtrail.experiment.doubt import SIGNALS
from flashtrail.statistics.wording import MINUS

Verdict = Literal["supported", "refuted", "inconclusive", "not_tested"]
_ALIKE = 0.6  # of two words, by difflib: clean and claen have 0.8, zero and noise 0.4
VERDICTS: tuple[Verdict, ...] = ("supported", "refuted", "inconclusive", "not_tested")
SEED_WORDS: dict[str, str] = {
    "supported": "supported",
    "supported/limited": "supported_limited",
    "inconclusive": "partially_supported_limited",
    "refuted": "negative_limited",
    "not_tested": "not_claimed",
}


class Seed(Section):
    """The reproduction's verdict on the same claim, in its own words and figures; empty where it gave none."""

    word: str | None = Field(None, description="its status word, exactly")
    caveat: str = ""
    figures: str = ""


class _Claim(Section):
    id: str = Field(pattern=r"^[A-Z]\d+$")
    title: str
    statement: str
    scope: str
    refuted_if: str = Field(description="what would refute it; the test below computes just that")
    estimand: str = Field(min_length=1, description="the number that the claim is about")
    seed: Seed = Seed()

    # True where the verdict is about episodes or rounds of a few tasks, so that `supported` has limits.
    limited: ClassVar[bool] = True


class Check(Section):
    """One requirement on a JSON record. `path` is dotted; ``stages[vision]`` is the entry whose `stage` is vision."""

    path: str
    presence: Literal["present", "absent"] | None = Field(None, alias="is")
    equals: bool | int | float | str | None = None
    at_most: float | str | None = Field(None, description="a number, or the path of one in the same record")
    where: str | None = Field(None, description="checked only in records that have this path; the others are named")

    @model_validator(mode="after")
    def _one_requirement(self) -> Check:
        if sum(x is not None for x in (self.presence, self.equals, self.at_most)) != 1:
            raise ValueError(f"check of {self.path!r}: give exactly one of is, equals, at_most")
        return self


class RecordsClaim(_Claim):
    """Every record of a kind meets every check."""

    test: Literal["records"]
    of: Literal["records", "parity", "boots", "environments"]
    checks: list[Check] = Field(min_length=1)
    limited: ClassVar[bool] = False


class EpisodesCompleteClaim(_Claim):
    """The smoke episodes of every policy ended in success or at the horizon, not in an error."""

    test: Literal["episodes_complete"]
    at_least: int = Field(2, ge=1)
    limited: ClassVar[bool] = False


class _SuccessClaim(_Claim):
    """A claim about success: the simulator's own, or the verified one (simulators/verify.py)."""

    success: Literal["simulator", "verified"] = "simulator"


class RateClaim(_SuccessClaim):
    """Success of one arm is at least `bar`: Clopper-Pearson's interval against it."""

    test: Literal["rate_at_least"]
    arm: str
    bar: float = Field(gt=0, lt=1)


class MetricClaim(_Claim):
    """In one arm a metric says yes, or counts at least one, in at least (at most) a share `bar` of the episodes.

    Of what is measured in mm or N, "yes" is: it is at most `limit`.
    """

    test: Literal["metric_rate"]
    arm: str
    metric: Literal[
        "naive_success",
        "own_success",
        "printed_success",
        "verified_success",
        "gripper_closures",
        "grasps",
        "lifts",
        "limited_steps",
        "stops",
        "interventions",
        "expert_steps",
        "worst_excursion_mm",
        "peak_force_n",
    ]
    limit: FiniteFloat | None = Field(None, description="of worst_excursion_mm (mm) and peak_force_n (N)")
    side: Literal["at_least", "at_most"]
    bar: float = Field(gt=0, lt=1)

    @model_validator(mode="after")
    def _measured_against_a_limit(self) -> Self:
        if (self.metric in ("worst_excursion_mm", "peak_force_n")) != (self.limit is not None):
            raise ValueError(f"{self.metric}: " + ("takes no limit" if self.limit is not None else "give its limit"))
        return self


class _TwoArmsClaim(_SuccessClaim):
    """One arm against another."""

    arm: str
    control: str

    @model_validator(mode="after")
    def _two(self) -> Self:
        if self.arm == self.control:
            raise ValueError(f"arm and control are both {self.arm!r}: an arm is never worse than itself")
        return self


class _DifferenceClaim(_TwoArmsClaim):
    """One arm differs from another in the stated direction."""

    direction: Literal["less", "greater"]
    margin: float = Field(gt=0, lt=1, description="the smallest difference that matters; its exclusion refutes")
    family: str | None = Field(None, description="claims of one family share their error rate, by Holm's method")


class PairedClaim(_DifferenceClaim):
    """One arm differs from its control in the stated direction: exact McNemar on the same episodes."""

    test: Literal["paired_difference"]


class UnpairedClaim(_DifferenceClaim):
    """One arm differs from another in the stated direction, not on the same episodes: Boschloo's test."""

    test: Literal["unpaired_difference"]


class _NotWorseClaim(_TwoArmsClaim):
    """One arm is not worse than its control by `margin`: paired score interval."""

    margin: float = Field(gt=0, lt=1)


class NonInferiorityClaim(_NotWorseClaim):
    """That alone."""

    test: Literal["non_inferiority"]


class StepsSavedClaim(_NotWorseClaim):
    """One arm takes less than `below` times its control's steps a round, and is not worse by `margin`."""

    test: Literal["steps_saved"]
    below: float = Field(1.0, gt=0, le=1)


NotWorse = NonInferiorityClaim | StepsSavedClaim


class StepsDifferClaim(_Claim):
    """Within an episode of an arm the steps a round spread by more than `above` (standard deviation)."""

    test: Literal["steps_differ"]
    arm: str
    above: FiniteFloat = Field(0.0, ge=0)


class SignalClaim(_Claim):
    """A signal's mean over an episode's first steps tells failures from successes: its AUROC lies above `above`."""

    test: Literal["signal_auroc"]
    signal: str
    above: FiniteFloat = Field(0.5, ge=0.5, lt=1)

    @field_validator("signal")
    @classmethod
    def _known(cls, name: str) -> str:
        if name not in SIGNALS:
            raise ValueError(f"unknown signal {name!r}{nearest(name, SIGNALS)}")
        return name


class Bound(Section):
    """One figure of a measurement, and the side of a number on which its whole interval has to lie."""

    measurement: str = Field(pattern=r"^\w+$", description="a file of results/measured, without its ending")
    figure: str
    below: FiniteFloat | None = None
    above: FiniteFloat | None = None

    @model_validator(mode="after")
    def _one_side(self) -> Bound:
        if (self.below is None) == (self.above is None):
            raise ValueError(f"bound of {self.figure!r}: give exactly one of below, above")
        return self

    @property
    def number(self) -> float:
        """The number itself."""
        return next(side for side in (self.below, self.above) if side is not None)

    @property
    def words(self) -> str:
        """``below 0.05``."""
        return f"{'above' if self.below is None else 'below'} {self.number:g}".replace("-", MINUS)


class MeasuredClaim(_Claim):
    """Figures that no episode has lie within their bounds, with their whole intervals."""

    test: Literal["measured"]
    bounds: list[Bound] = Field(min_length=1)


class LatencyClaim(_Claim):
    """The profile's draft rounds take less than `below` times the full rounds, by their medians."""

    test: Literal["latency_ratio"]
    below: float = Field(1.0, gt=0)
    # An idle system's own housekeeping stays under a few percent; at a tenth another program is computing.
    load_at_most: float = Field(0.1, gt=0, le=1, description="share of the cores that other programs may take")


class LatencyLimitClaim(_Claim):
    """The profile's rounds of one route take at most `ms`, by their median."""

    test: Literal["latency_at_most"]
    route: Literal["full", "draft"] = "full"
    ms: float = Field(gt=0)
    load_at_most: float = Field(0.1, gt=0, le=1, description="share of the cores that other programs may take")


class RoutesClaim(_Claim):
    """Route and accepted prefix of one arm's rounds are recorded and agree with its episodes' counters."""

    test: Literal["routes"]
    arm: str


class PublishedCounts(Section):
    """Two methods whose published counts are compared, pooled over suites or over the conveyor's cells."""

    methods: tuple[str, str]
    of: Literal["success", "conveyor"]


class PublishedClaim(_Claim):
    """A claim that others published, quoted and not judged; its counts get their interval."""

    test: Literal["published"]
    policy: str
    suites: list[str]
    reference: str
    counts: PublishedCounts | None = None


class PublishedChecksClaim(_Claim):
    """Published figures hold together: rates are counts, ratios are quotients, sizes and lengths add up."""

    test: Literal["published_checks"]
    check: Literal[
        "rate is a count",
        "rates are counts",
        "ratio is a quotient",
        "sizes add up",
        "windows fit",
        "mean of lengths",
    ]
    limited: ClassVar[bool] = False


class PublishedMixtureClaim(_Claim):
    """One draft latency explains a method's printed means in all suites, to their printed digits."""

    test: Literal["published_mixture"]
    method: str


class BookkeepingClaim(_Claim):
    """In every arm counters agree with rounds, k/n with rows, and mean latency with the mixture of its routes."""

    test: Literal["bookkeeping"]
    tolerance: float = Field(1e-6, gt=0, description="of the mean, relative")
    limited: ClassVar[bool] = False


class NotTestedClaim(_Claim):
    """A claim that this project does not make."""

    test: Literal["none"]
    reason: str


AnyClaim = Annotated[
    RecordsClaim
    | EpisodesCompleteClaim
    | RateClaim
    | MetricClaim
    | PairedClaim
    | UnpairedClaim
    | NonInferiorityClaim
    | StepsSavedClaim
    | StepsDifferClaim
    | SignalClaim
    | MeasuredClaim
    | LatencyClaim
    | LatencyLimitClaim
    | RoutesClaim
    | PublishedClaim
    | PublishedChecksClaim
    | PublishedMixtureClaim
    | BookkeepingClaim
    | NotTestedClaim,
    Field(discriminator="test"),
]


class ClaimsFile(Section):
    """claims.yaml."""

    version: Literal[1]
    title: str = Field("", max_length=120, description="of the report; none: that of reports/final.html")
    published: str = Field("published", pattern=r"^\w+$", description="whose figures: a file of resources/published")
    alpha: float = Field(0.05, gt=0, lt=0.5)
    claims: list[AnyClaim] = Field(min_length=1)

    @property
    def success(self) -> Literal["simulator", "verified"]:
        """Which success the claims that compare arms are about, the first of them where they differ."""
        return next((claim.success for claim in self.claims if isinstance(claim, _SuccessClaim)), "simulator")

    @model_validator(mode="after")
    def _unique_ids(self) -> ClaimsFile:
        ids = [claim.id for claim in self.claims]
        duplicates = {i for i in ids if ids.count(i) > 1}
        if duplicates:
            raise ValueError(f"duplicate claim {min(duplicates)}")
        return self


def load(path: str | Path) -> ClaimsFile:
    """Read claims.yaml; UserError names the file, the claim and what is wrong with it."""
    try:
        data = documents.mapping(path, "claims:")
        return ClaimsFile.model_validate(data)
    except ValidationError as error:
        problem = error.errors()[0]
        location = _location(data, problem["loc"])
        raise UserError(f"{path}: {location}{documents.reason(problem)}") from None


def check_arms(path: str | Path, file: ClaimsFile, arms: Iterable[str]) -> None:
    """UserError for an arm of a claim that is a known one misspelt.

    Any other unknown arm is accepted: this config may leave it out, and its claim is then not tested.
    """
    names = sorted(arms)
    for claim in file.claims:
        for arm in (getattr(claim, side, None) for side in ("arm", "control")):
            nearest = None if arm is None or arm in names else next((n for n in names if _misspelt(arm, n)), None)
            if nearest:
                raise UserError(f"{path}: claim {claim.id}: no config has an arm {arm!r}; did you mean {nearest!r}?")


def check_figures(path: str | Path, file: ClaimsFile, known: Mapping[str, Iterable[str]]) -> None:
    """UserError for a bound on a figure that a measurement does not have; `known`: figures by measurement.

    A measurement that is not known is accepted: this config may leave it out, or its figures are known only once it is
    measured.
    """
    for claim in file.claims:
        for bound in getattr(claim, "bounds", ()):
            names = sorted(known.get(bound.measurement, [bound.figure]))
            if bound.figure not in names:
                raise UserError(
                    f"{path}: claim {claim.id}: {bound.measurement} has no figure {bound.figure!r}"
                    f"{nearest(bound.figure, names)}"
                )


def _misspelt(name: str, arm: str) -> bool:
    """Return whether a name is a misspelling of an arm's: as many words, all alike, and the same numbers."""
    parts, arm_parts = name.split("_"), arm.split("_")
    if len(parts) != len(arm_parts) or re.findall(r"\d+", name) != re.findall(r"\d+", arm):
        return False
    return all(difflib.SequenceMatcher(None, a, b).ratio() >= _ALIKE for a, b in zip(parts, arm_parts, strict=True))


def _location(data: Any, location: tuple[Any, ...]) -> str:
    """Return ``C7, margin: `` for pydantic's ('claims', 7, 'paired_difference', 'margin')."""
    parts = [str(p) for p in location]
    if len(location) > 1 and location[0] == "claims" and isinstance(location[1], int):
        claim = data["claims"][location[1]]
        name = str(claim.get("id", location[1])) if isinstance(claim, Mapping) else str(location[1])
        parts = [f"claim {name}", *(str(p) for p in location[3:])]
    return ", ".join(parts) + ": " if parts else ""


def seed_word(verdict: Verdict, limited: bool) -> str:
    """Return the reproduction's status word for one of our verdicts."""
    return SEED_WORDS["supported/limited" if verdict == "supported" and limited else verdict]
