"""The gap to the baseline over all settings together."""

from collections.abc import Sequence
from statistics import fmean

from scipy.stats import ttest_1samp
from statsmodels.stats.multitest import multipletests

from mmwau.reporting.numbers import NO_VALUE, gap_text, number_text
from mmwau.reporting.page import Table
from mmwau.reporting.statistics import summarise

from .setting import Setting


def over_settings(settings: Sequence[Setting]) -> Table | None:
    """For each arm that all settings have: the gap, and how likely it is by chance alone.

    Pairs are those of a setting and a seed; p is that of the paired t test over all of them,
    two-sided, once as it is and once after Holm's correction for the number of arms. It speaks of
    these settings, and not of others that might have been chosen.

    Args:
        settings: The settings, which have the same metric.

    Returns:
        The table; None for one setting, where baselines differ, or where no arm has two pairs.
    """
    first = settings[0] if settings else None
    if first is None or len(settings) < 2 or len({one.baseline for one in settings}) > 1:
        return None
    everywhere = [arm for arm in first.arms if all(arm in one.arms for one in settings)]
    gaps = {
        arm: [gap for one in settings for gap in one.differences(arm)] for arm in everywhere[1:]
    }
    gaps = {arm: found for arm, found in gaps.items() if len(found) > 1}
    if not gaps:
        return None
    chances = [float(ttest_1samp(found, 0).pvalue) for found in gaps.values()]
    corrected = multipletests(chances, method='holm')[1]
    by_arm = dict(zip(gaps, zip(chances, corrected, strict=True), strict=True))
    rows = []
    for arm in [first.baseline, *gaps]:
        means = [mean.mean for one in settings if (mean := one.mean(arm, 'metric')) is not None]
        cells = [NO_VALUE] * 4
        if arm in gaps:
            gap = gap_text(summarise(gaps[arm]), first.decimals)
            cells = [str(len(gaps[arm])), gap, *map(_chance_text, by_arm[arm])]
        whole = fmean(means) if len(means) == len(settings) else None
        rows.append([arm, number_text(whole, first.decimals), *cells])
    columns = ['arm', f'mean {first.metric}', 'pairs', 'Gap (95 % interval)', 'p', 'p (Holm)']
    return Table('Over all settings', columns, rows)


def _chance_text(chance: float) -> str:
    return '< 0.0001' if chance < 0.0001 else number_text(chance, 4)
