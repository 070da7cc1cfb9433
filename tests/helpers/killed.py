"""Trains a small model and kills itself: WORK_DIR epoch|iter out|layer never|iteration|saving."""

import os
import signal
import sys
from pathlib import Path

from mmengine.hooks import Hook
from small import small_runner

from mmwau.scripts.checkpoint import remove_unfinished, write_whole_files


class Die(Hook):
    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter == 7:
            os.kill(os.getpid(), signal.SIGKILL)


def die_at_the_second_save():
    """Kill when the second checkpoint is written, but not yet in its place."""
    saves = []

    def fsync(descriptor):
        saves.append(descriptor)
        if len(saves) == 2:
            os.kill(os.getpid(), signal.SIGKILL)

    os.fsync = fsync


def main():
    work_dir, kind, axis, when = sys.argv[1:]
    write_whole_files()
    remove_unfinished(work_dir)
    if when == 'saving':
        die_at_the_second_save()
    options = {}
    if kind == 'iter':
        options['train_cfg'] = dict(type='IterBasedTrainLoop', max_iters=12)
        options['sampler'] = dict(type='InfiniteSampler', shuffle=True)
        options['checkpoint'] = dict(type='CheckpointHook', interval=5, by_epoch=False)
    small_runner(
        Path(work_dir),
        dict(type='WAUOptimWrapper', sampler='cyclic', hold='state', axis=axis),
        [dict(type='WAUHook'), *([Die()] if when == 'iteration' else [])],
        max_epochs=4,
        resume=True,
        **options,
    ).train()


if __name__ == '__main__':
    main()
