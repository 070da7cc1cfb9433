"""Which of a validation's metrics is looked at."""

from collections.abc import Mapping

KNOWN_METRICS = ('coco/bbox_mAP', 'coco/segm_mAP', 'pascal_voc/mAP', 'accuracy/top1')


def choose_metric(metrics: Mapping[str, float], asked: str | None = None) -> str:
    """Name of the metric to show.

    Args:
        metrics: The metrics of the whole network.
        asked: The name that was asked for; None for the first known one, or else the first.

    Raises:
        ValueError: If there is no such metric; it lists those that exist.
    """
    if not metrics:
        raise ValueError(
            'The evaluation of the whole network gave no metric: it detects nothing, or '
            'test_evaluator does not evaluate (format_only). Name another checkpoint or config'
        )
    if asked is None:
        known = [name for name in KNOWN_METRICS if name in metrics]
        return known[0] if known else next(iter(metrics))
    if asked not in metrics:
        raise ValueError(f'--metric {asked} is unknown. Metrics that exist: {", ".join(metrics)}')
    return asked
