"""The demo: train a detector with WAU on drawn shapes, evaluate it, and show what it does.

About 6 minutes on 2 CPU cores. Everything it writes is in work_dirs/faster_rcnn_r18_wau_demo.
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path

import mmwau.openmp  # noqa: F401  (before torch)

import mmcv
from mmengine.config import Config
from mmengine.fileio import load
from rich.console import Console
from rich.table import Table
from torchvision.ops import nms

from mmwau.datasets.shapes import CLASSES, make_shapes
from mmwau.launch import build_runner
from mmwau.plots import plot_detections

ROOT = Path(__file__).resolve().parents[1]
CONFIG = Path('configs/faster_rcnn_r18_wau_demo.py')
WORK_DIR = Path('work_dirs') / CONFIG.stem
SHOWN_IMAGES = 8


def train() -> None:
    """Train with the script that users train with."""
    command = ['tools/train.py', str(CONFIG)]
    print(f'\n$ python {" ".join(command)}\n', flush=True)
    if status := subprocess.run([sys.executable, *command], cwd=ROOT).returncode:
        sys.exit(f'Training stopped with exit status {status}; the lines above say why.')


def evaluate(predictions: Path) -> dict[str, float]:
    """Evaluate the trained detector on the held-out images; keep its predictions in a file."""
    cfg = Config.fromfile(CONFIG)
    cfg.work_dir = str(WORK_DIR)
    cfg.load_from = (WORK_DIR / 'last_checkpoint').read_text().strip()
    cfg.log_level = 'WARNING'
    cfg.test_evaluator = [
        cfg.test_evaluator,
        dict(type='DumpDetResults', out_file_path=str(predictions)),
    ]
    return build_runner(cfg).test()


def show_detections(predictions: Path, picture: Path) -> None:
    """Draw the detections on the first held-out images beside what is annotated."""
    results = load(predictions)[:SHOWN_IMAGES]
    annotations = load('data/demo/annotations/instances_val.json')['annotations']
    samples = []
    for result in results:
        found = result['pred_instances']
        # Of boxes of several classes around one shape, the surest is drawn.
        best = nms(found['bboxes'], found['scores'], iou_threshold=0.5)
        truth = [item['bbox'] for item in annotations if item['image_id'] == result['img_id']]
        samples.append(
            {
                'image': mmcv.imread(result['img_path'], channel_order='rgb'),
                'boxes': found['bboxes'][best].tolist(),
                'labels': found['labels'][best].tolist(),
                'scores': found['scores'][best].tolist(),
                'truth': [(x, y, x + width, y + height) for x, y, width, height in truth],
            }
        )
    plot_detections(samples, CLASSES, picture)


def main() -> None:
    """Run the demo from its data to its pictures."""
    os.chdir(ROOT)
    if not Path('data/demo').exists():
        make_shapes('data/demo')
    train()
    predictions, picture = WORK_DIR / 'predictions.pkl', WORK_DIR / 'detections.png'
    metrics = evaluate(predictions)
    show_detections(predictions, picture)
    table = Table(title='On images it never saw')
    table.add_column('COCO metric')
    table.add_column('value', justify='right')
    for name in ('mAP', 'mAP_50', 'mAP_75', 'mAP_s', 'mAP_m'):
        table.add_row(f'bbox_{name}', f'{metrics[f"coco/bbox_{name}"]:.3f}')
    Console().print(table)
    print(f'Detections on held-out images:            {picture}')
    print(f'Overlap of each layer, before and after:  {WORK_DIR / "overlap.png"}')


if __name__ == '__main__':
    # Without options; --help tells what the demo does, and starts nothing.
    argparse.ArgumentParser(description=__doc__).parse_args()
    main()
