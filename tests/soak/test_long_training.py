"""The short form of the long training that is killed many times."""

import long_training
import pytest
import torch
import warm  # noqa: F401  (what its processes begin with)

UPDATES = 400


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    """The folder of a training in a piece, and what it was like at some points."""
    work_dir = tmp_path_factory.mktemp('long') / 'whole'
    return work_dir, long_training.train_in_a_piece(work_dir, UPDATES)


@pytest.mark.slow
def test_killed_at_random_moments_training_ends_with_the_same_bits(tmp_path, whole):
    work_dir, killed = whole[0], tmp_path / 'killed'
    moments = [done for done, _ in long_training.train_and_kill(killed, UPDATES, 3, seed=0)]
    assert len(set(moments)) == 3
    assert long_training.differences(work_dir, killed) == []
    path = killed / f'epoch_{UPDATES // long_training.EPOCH}.pth'
    end = torch.load(path, weights_only=False)
    assert end['optimizer']['wau']['updates'] == UPDATES
    # That they would be found if there were any.
    end['optimizer']['state'][0]['momentum_buffer'][1, 2, 0, 0] += 1
    end['message_hub']['log_scalars']['train/path_length']._log_history[-1] += 1
    torch.save(end, path)
    assert long_training.differences(work_dir, killed) == [
        '/optimizer/state/0/momentum_buffer',
        '/logged/train/path_length/0',
    ]


@pytest.mark.slow
def test_an_update_leaves_no_objects(whole):
    points = whole[1]
    assert [point['update'] for point in points[:2]] == [8, 16]
    middle, end = points[len(points) // 2], points[-1]
    assert end['update'] - middle['update'] > 150
    assert end['objects'] - middle['objects'] < 20


@pytest.mark.parametrize(
    ('options', 'words'),
    [
        (['--updates', '30'], '--updates must be a multiple of 100 above 0, got 30'),
        (['--updates', '100', '--kills', '101'], '--kills must be in [0, 100], got 101'),
        (['--out', '.'], '--out . exists: its trainings would go on'),
    ],
)
def test_wrong_options_are_reported(capsys, options, words):
    with pytest.raises(SystemExit, match='2'):
        long_training.parse_args(options)
    assert words in capsys.readouterr().err
