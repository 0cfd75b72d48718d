"""Verdicts about signals of doubt (claims/signal.py). How the test decides is written above it; nothing else enters."""

from __future__ import annotations

from flashtrail.claims import claims as types
from flashtrail.claims import signal
from flashtrail.claims.campaign import Campaign
from flashtrail.claims.judgement import Judgement, NotTested, decided, scope_of
from flashtrail.experiment.doubt import SIGNALS
from flashtrail.statistics.wording import plural

# --- signal_auroc: supported if the AUROC's interval lies above `above`, refuted if it lies at or below ---


def judge_signal(claim: types.SignalClaim, campaign: Campaign, _alpha: float) -> Judgement:
    """Judge whether a signal's mean over an episode's first steps tells that the episode fails."""
    words = SIGNALS[claim.signal][1]
    analysis = signal.of_run(campaign)
    if claim.signal not in analysis["signals"]:
        raise NotTested(f"no round has the signal {claim.signal} ({words})")
    row = next((row for row in signal.whole_window(analysis) if row["signal"] == claim.signal), None)
    if row is None:
        raise NotTested(f"no arm and task has episodes of both ends that have {claim.signal}")
    if row["interval"] is None:
        episodes = plural(row["episodes"], "episode")
        raise NotTested(f"{episodes} give no interval of {claim.signal}: it needs 5 of each end")
    low, high = row["interval"]["low"], row["interval"]["high"]
    said = f"AUROC {row['value']:.2f} [{low:.2f}, {high:.2f}]"
    arms = campaign.rounds.loc[campaign.rounds[claim.signal].notna(), "arm"].unique()
    own = {str(arm): campaign.judged(str(arm)) for arm in arms}
    return Judgement(
        decided(low > claim.above, high <= claim.above),
        f"The mean of {claim.signal} ({words}) over the first {analysis['window']} steps tells failure with an {said}, "
        f"against {claim.above:g}: {row['positive']} of {plural(row['episodes'], 'episode')} in "
        f"{plural(row['strata'], 'pair')} of arm and task failed.",
        {"auroc": row["value"], "low": low, "high": high, "above": claim.above},
        said,
        scope_of(campaign, {arm: episodes for arm, episodes in own.items() if episodes["interventions"].isna().all()}),
    )
