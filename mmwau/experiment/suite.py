"""A suite: which trainings make an experiment, read from a small file."""

import argparse
import copy
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from os import PathLike
from pathlib import Path

from mmengine.config import Config, DictAction

from mmwau.engine.package_configs import read_config
from mmwau.runs.settings import split_settings

# What each part of a suite can have, and of what type; seeds and processes have their own checks.
PARTS: dict[str, dict[str, type]] = {
    'suite': dict(
        title=str,
        metric=str,
        other_metrics=list,
        seeds=object,
        options=dict,
        processes=object,
        settings=dict,
        arms=dict,
    ),
    'setting': dict(config=str, options=dict, processes=object, arms=list, seeds=object),
    'arm': dict(config=str, options=dict),
}
WORDS: dict[type, str] = {
    str: 'a string',
    list: 'a list of strings',
    dict: 'a dict with strings as keys',
}
# Settings that make no difference to what is trained.
QUIET_HOOKS = ('logger', 'checkpoint', 'timer', 'runtime_info')
IRRELEVANT = ('test_', 'env_cfg.', *(f'default_hooks.{name}.' for name in QUIET_HOOKS))


@dataclass(frozen=True, eq=False)
class Named:
    """What a training and its record are called by; see :class:`Training`."""

    setting: str
    arm: str
    seed: int

    @property
    def key(self) -> tuple[str, str, int]:
        """Setting, arm and seed."""
        return self.setting, self.arm, self.seed

    @property
    def name(self) -> str:
        """The same, for messages."""
        return '{} / {} / seed {}'.format(*self.key)


@dataclass(frozen=True, eq=False)
class Training(Named):
    """One training of a suite: an arm in a setting with a seed.

    Args:
        setting: Name of the setting: network, data, length of training.
        arm: Name of the arm.
        seed: Seed of the run.
        config: The config file.
        options: What is changed in it, by dotted name, as by ``--cfg-options``, without the seed.
        processes: Number of processes that train it together.
    """

    config: Path
    options: Mapping[str, object]
    processes: int = 1

    @property
    def folder(self) -> Path:
        """Its work_dir below that of the suite."""
        return Path(_file_name(self.setting), _file_name(self.arm), f'seed{self.seed}')

    @property
    def command(self) -> list[str]:
        """The command that trains it, for a shell in the project's folder."""
        options = {**self.options, 'randomness.seed': self.seed}
        script = ['python', 'tools/train.py', str(self.config)]
        if self.processes > 1:
            script = ['bash', 'tools/dist_train.sh', str(self.config), str(self.processes)]
        changes = [f'{name}={_option(value)}' for name, value in options.items()]
        return [*script, '--cfg-options', *changes]

    @cached_property
    def cfg(self) -> Config:
        """Its whole config."""
        cfg = copy.deepcopy(_read_config(self.config, Path.cwd()))
        cfg.merge_from_dict({**copy.deepcopy(dict(self.options)), 'randomness.seed': self.seed})
        return cfg

    @cached_property
    def digest(self) -> str:
        """What identifies a training: a hash of the settings that make a difference."""
        settings, wau = split_settings(self.cfg.to_dict())
        return digest(settings, wau, self.seed, self.processes)


@dataclass(frozen=True)
class Suite:
    """A matrix of trainings: settings × arms × seeds.

    Args:
        name: Name of its file.
        title: What it shows.
        metric: Name of the validation metric that is compared.
        trainings: All trainings, seed by seed, so that what is done early has all arms.
        other_metrics: Names of metrics that are shown beside it.
    """

    name: str
    title: str
    metric: str
    trainings: Sequence[Training]
    other_metrics: Sequence[str] = ()

    @property
    def settings(self) -> dict[str, list[str]]:
        """For each setting its arms; the first one is the baseline."""
        arms: dict[str, dict[str, None]] = {}
        for training in self.trainings:
            arms.setdefault(training.setting, {})[training.arm] = None
        return {setting: list(names) for setting, names in arms.items()}


def read_suite(path: str | PathLike) -> Suite:
    """Read a suite from its file, which is a config file of MMEngine with these variables.

    - ``title``: what the suite shows.
    - ``metric``: name of the validation metric, for example ``'accuracy/top1'``.
    - ``other_metrics``: list of metrics to show beside it (optional).
    - ``seeds``: list of integers.
    - ``options``: settings for all trainings, as ``--cfg-options`` takes them (optional). In a
      value that is a string ``{seed}`` stands for the training's seed.
    - ``processes``: number of processes of each training (optional; 1 by default).
    - ``settings``: for each name a dict with the ``config``, in which ``{arm}`` stands for what the
      arm puts there, and optionally ``options``, ``processes``, ``seeds`` and ``arms`` (names of
      some).
    - ``arms``: for each name a dict with ``config``, what it puts in the place of ``{arm}``
      (nothing by default), and ``options``, which count more than those of the setting. The first
      arm is the baseline.

    Configs are named from the folder that the tool runs in.

    Raises:
        FileNotFoundError: If it or a config does not exist.
        ValueError: If it lacks a variable, or has one that is unknown or wrong.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f'The suite {path} does not exist (from {Path.cwd()})')
    read = read_config(path, import_custom_modules=False).to_dict()
    _check_keys(path, 'suite', read, required=('title', 'metric', 'seeds', 'settings', 'arms'))
    arms, found = read['arms'], []
    for arm, parts in arms.items():
        _check_keys(path, 'arm', parts, where=f'arms[{arm!r}]')
    for setting, parts in read['settings'].items():
        where = f'settings[{setting!r}]'
        _check_keys(path, 'setting', parts, required=('config',), where=where)
        chosen = parts.get('arms', list(arms))
        unknown = [arm for arm in chosen if arm not in arms]
        if unknown or not chosen:
            raise ValueError(f'{path}: {where} has arms={chosen!r}; the arms are {", ".join(arms)}')
        processes = parts.get('processes', read.get('processes', 1))
        if not isinstance(processes, int) or processes < 1:
            raise ValueError(f'{path}: processes must be at least 1, got {processes!r}')
        seeds = _check_seeds(path, parts.get('seeds', read['seeds']))
        variants = []
        for arm in chosen:
            config = Path(parts['config'].replace('{arm}', arms[arm].get('config', '')))
            if not config.is_file():
                raise FileNotFoundError(
                    f'{path}: {where} with the arm {arm!r} needs the config {config}, which '
                    f'does not exist (from {Path.cwd()})'
                )
            options: dict[str, object] = {}
            for part in (read, parts, arms[arm]):
                options |= part.get('options', {})
            _check_options(path, options)
            variants.append((arm, config, options))
        found += [
            Training(setting, arm, seed, config, _with_seed(options, seed), processes)
            for seed in seeds
            for arm, config, options in variants
        ]
    for name in {name for training in found for name in (training.setting, training.arm)}:
        if not _file_name(name).strip('.'):
            raise ValueError(
                f'{path}: {name!r} can not name a folder; a setting or arm needs a name with a '
                'letter of a to z or a digit'
            )
    folders = [training.folder for training in found]
    if len(set(folders)) < len(folders):
        raise ValueError(
            f'{path}: two trainings would share a work_dir, since names of settings or arms differ '
            'only in characters that file names leave out. Give them other names'
        )
    other_metrics = read.get('other_metrics', [])
    return Suite(path.stem, read['title'], read['metric'], found, other_metrics)


def digest(settings: Mapping, wau: Mapping | None, seed: int | None, processes: int) -> str:
    """A hash of what makes a difference to a training, 16 hexadecimal digits.

    The settings and WAU's are those of :func:`mmwau.runs.settings.split_settings`.
    """
    kept = {name: value for name, value in settings.items() if not name.startswith(IRRELEVANT)}
    whole = json.dumps([kept, wau, seed, processes], sort_keys=True, default=str)
    return hashlib.sha256(whole.encode()).hexdigest()[:16]


def _check_keys(
    path: Path, kind: str, part: Mapping, required: Sequence[str] = (), where: str = ''
) -> None:
    place = f'{path}{": " * bool(where)}{where}'
    one = 'an arm' if kind == 'arm' else f'a {kind}'
    if not isinstance(part, Mapping):
        raise ValueError(f'{place} must be a dict, got {part!r}')
    missing = [key for key in required if not part.get(key)]
    if missing:
        raise ValueError(f'{place} lacks {", ".join(missing)}, which {one} needs')
    unknown = [key for key in part if key not in PARTS[kind]]
    if unknown:
        raise ValueError(
            f'{place} has {", ".join(unknown)}, which {one} does not have; it can have '
            f'{", ".join(PARTS[kind])}'
        )
    for key, value in part.items():
        type_ = PARTS[kind][key]
        inner = value if type_ in (list, dict) else ()
        if not isinstance(value, type_) or not all(isinstance(one, str) for one in inner):
            raise ValueError(f'{place}: {key} must be {WORDS[type_]}, got {value!r}')


def _check_seeds(path: Path, seeds: object) -> Sequence[int]:
    if (
        not isinstance(seeds, (list, tuple))
        or not seeds
        or not all(isinstance(seed, int) for seed in seeds)
        or len(set(seeds)) < len(seeds)
    ):
        raise ValueError(f'{path}: seeds must be different integers in a list, got {seeds!r}')
    return seeds


def _with_seed(options: Mapping[str, object], seed: int) -> dict[str, object]:
    filled = dict(options)
    for name, value in options.items():
        if isinstance(value, str) and '{seed}' in value:
            # What it is then may be a number.
            filled[name] = _read_option(name, value.replace('{seed}', str(seed)))
    return filled


def _check_options(path: Path, options: Mapping[str, object]) -> None:
    for name, value in options.items():
        read = _read_option(name, value)
        if read != value or type(read) is not type(value):
            raise ValueError(
                f'{path}: options can have numbers, True, False, None, words, and lists and tuples '
                f'of these, as --cfg-options takes them; {name!r} has {value!r}, which would be '
                f'read as {read!r}. Name keys of a dict by dots, or write a config'
            )


def _read_option(name: str, value: object) -> object:
    """What ``tools/train.py`` reads where a value is given with ``--cfg-options``."""
    parser = argparse.ArgumentParser(exit_on_error=False)
    parser.add_argument('--cfg-options', nargs='+', action=DictAction)
    text = f'{name}={_option(value)}'
    return parser.parse_args(['--cfg-options', text]).cfg_options.get(name)


@lru_cache(maxsize=64)
def _read_config(path: Path, folder: Path) -> Config:
    return read_config(folder / path, import_custom_modules=False)


def _option(value: object) -> str:
    """A value as ``--cfg-options`` reads it."""
    if isinstance(value, (list, tuple)):
        inner = ','.join(map(_option, value))
        return f'[{inner}]' if isinstance(value, list) else f'({inner})'
    return str(value)


def _file_name(name: str) -> str:
    return re.sub(r'[^a-z0-9.]+', '_', name.lower().replace('×', 'x')).strip('_')
