"""Weights that a config names and that are not on this machine: what to do about them."""

from collections.abc import Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from urllib.parse import urlparse

import torch
from mmengine.config import Config
from mmengine.runner import (
    CheckpointLoader,
    get_deprecated_model_names,
    get_external_models,
    get_mmcls_models,
    get_torchvision_models,
)

# Where MMEngine looks up the addresses of names such as torchvision://resnet50.
MODELS = {
    'torchvision': get_torchvision_models,
    'modelzoo': get_torchvision_models,
    'open-mmlab': get_external_models,
    'openmmlab': get_external_models,
    'mmcls': get_mmcls_models,
}

# Scripts that write weights, each those of its name.
CONVERTERS = Path(__file__).parents[1] / '.mim' / 'tools' / 'model_converters'


class WeightsError(OSError):
    """Weights can't be loaded; the message says what to do."""


@contextmanager
def explain_weights(cfg: Config) -> Iterator[None]:
    """Have it explained where weights can't be loaded inside, and which settings name them.

    MMEngine loads the weights of every ``init_cfg``, of ``load_from`` and of the checkpoint to test
    in one place, as do the models of MMDetection and MMPreTrain.

    Raises:
        WeightsError: If a file does not exist, or what is at an address can't be downloaded or
            read.
    """
    original = CheckpointLoader.__dict__['load_checkpoint']

    def load_checkpoint(cls: type, /, filename: str, *args: object, **kwargs: object) -> dict:
        try:
            return original.__get__(None, cls)(filename, *args, **kwargs)
        except Exception as error:
            explanation = _explain(filename, error, cfg)
            if explanation is None:
                raise
            raise WeightsError(explanation) from error

    CheckpointLoader.load_checkpoint = classmethod(load_checkpoint)
    try:
        yield
    finally:
        CheckpointLoader.load_checkpoint = original


def _explain(filename: str, error: Exception, cfg: Config) -> str | None:
    """What to do about weights, or None if the error says it itself."""
    settings = ' '.join(f'{key}=FILE' for key in _keys_of(filename, cfg.to_dict()))
    instead = 'name a file of your own in its place' + (
        f': --cfg-options {settings}' if settings else ''
    )
    scheme, _, name = filename.rpartition('://')
    if not scheme and isinstance(error, FileNotFoundError):
        script = (CONVERTERS / f'{Path(filename).stem}.py').resolve()
        make = f'to make them, python {_near(script)} {filename}; or ' if script.is_file() else ''
        return f'The weights {filename} do not exist (seen from {Path.cwd()}); {make}{instead}'
    address = filename
    if scheme in MODELS:
        models = MODELS[scheme]()
        if scheme in ('open-mmlab', 'openmmlab'):
            name = get_deprecated_model_names().get(name, name)
        if name not in models:
            alike = ', '.join(get_close_matches(name, models)) or 'none'
            return (
                f'The weights {filename} are none that MMEngine knows. Names like it: {alike}; '
                f'or {instead}'
            )
        address = models[name]
    if not address.startswith(('http://', 'https://')):
        return None
    place = Path(torch.hub.get_dir()) / 'checkpoints' / Path(urlparse(address).path).name
    reason = f'{type(error).__name__}: {error}'
    if place.exists():
        return (
            f'The weights {filename} are in {place}, which can not be loaded ({reason}). If the '
            f'file is truncated, remove it to have it downloaded again; or {instead}'
        )
    return (
        f'The weights {filename} can not be downloaded ({reason}). Fetch {address} where there is '
        f'internet and copy it to {place}, or {instead}'
    )


def _near(path: Path) -> Path:
    """A path as seen from here, if it is below."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def _keys_of(value: str, settings: object, place: tuple[str, ...] = ()) -> Iterator[str]:
    """The keys, joined by dots, of the settings of a model that have this value."""
    if isinstance(settings, (list, tuple)):
        settings = dict(enumerate(settings))
    if isinstance(settings, dict):
        for key, part in settings.items():
            yield from _keys_of(value, part, (*place, str(key)))
    elif settings == value and place[0] == 'model':
        yield '.'.join(place)
