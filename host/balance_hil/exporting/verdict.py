"""The verdict of an export: the quantized policy against its float original."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from balance_hil.metrics import RETURN, EpisodeMetrics, Verdict
from balance_hil.paired import FAMILY_ERROR, sign_flip_test

SATURATED_SHARE = 0.01  # of what the policy sees in its episodes, from which a feature is warned about


def judge(episodes: Mapping[str, Sequence[EpisodeMetrics]], margin: float) -> Verdict:
    """The verdict over the stages: none fails in more episodes than the first, and none has a worse return beyond chance.

    Args:
        episodes: of each stage, the first being the float original, on the same seeds in the same order.
        margin: share of the original's mean return that a stage may lose.
    """
    names = list(episodes)
    if not names:
        return Verdict()
    original = episodes[names[0]]
    reasons = []
    failed = sum(e.failed for e in original)
    if original and failed == len(original):
        reasons.append(f"the {names[0]} policy fails in every episode")
    for name in names[1:]:
        stage = episodes[name]
        more = sum(e.failed for e in stage)
        if more > failed:
            reasons.append(f"the {name} policy fails in {more} of {len(stage)} episodes, the {names[0]} one in {failed}")
        worse = worse_return(original, stage, margin)
        if worse:
            reasons.append(f"the {name} policy returns {worse}")
    return Verdict(tuple(reasons))


def worse_return(original: Sequence[EpisodeMetrics], stage: Sequence[EpisodeMetrics], margin: float) -> str | None:
    """By how much the return is worse than the margin allows, in words; None: it is not, or chance may explain it.

    A one-sided sign-flip test over seeds at 5 %. With fewer than 5 seeds no test can find anything: the mean decides.
    """
    a, b = (np.array([e.metrics[RETURN.name] for e in episodes], np.float64) for episodes in (original, stage))
    beyond = a - b - margin * abs(float(a.mean()))
    if not len(beyond) or beyond.mean() <= 0:
        return None
    testable = 1 / (1 << len(beyond)) < FAMILY_ERROR
    if testable and sign_flip_test(beyond) / 2 >= FAMILY_ERROR:
        return None
    how = "beyond chance" if testable else "in too few episodes to rule out chance"
    return f"{b.mean():.4g}, the original {a.mean():.4g} (more than {margin:.0%} worse, {how})"


def saturation_warnings(names: Sequence[str], shares: Sequence[float]) -> tuple[str, ...]:
    """One line that names the observations which go beyond the quantized range in the policy's episodes."""
    beyond = [f"{name} in {share:.1%} of steps" for name, share in zip(names, shares, strict=True) if share > SATURATED_SHARE]
    if not beyond:
        return ()
    return (f"calibration never reached what the policy sees in its episodes; these inputs saturate: {', '.join(beyond)}",)
