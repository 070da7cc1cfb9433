"""What is trained and how, from a config, apart from WAU and the seed."""

from collections.abc import Iterator, Mapping
from inspect import Parameter, signature
from typing import Any

from mmengine.runner import Runner

from mmwau.engine.optim_wrapper import WAUMixin
from mmwau.engine.type_names import type_name
from mmwau.engine.wau_hook import WAUHook

# Arguments of the Runner that make no difference to how a network is trained.
NOT_TRAINING = {
    *('self', 'cfg', 'work_dir', 'resume', 'launcher'),
    *('experiment_name', 'visualizer', 'log_level'),
}
# Other variables of a config are there for these to be made from.
TRAINING = {*signature(Runner.__init__).parameters, 'auto_scale_lr', 'sync_bn'} - NOT_TRAINING
WITHOUT_WAU = {'WAUOptimWrapper': 'OptimWrapper', 'WAUAmpOptimWrapper': 'AmpOptimWrapper'}
MEASURING = ('overlap_interval', 'movement')
# What the training script gives recipes of MMPreTrain that set none; configs of runs have it.
COLLATE = dict(type='default_collate')


def split_settings(cfg: Mapping) -> tuple[dict[str, object], dict[str, object] | None]:
    """What is trained and how, and with which WAU, from a config as a dict, left as it is.

    Returns:
        The settings of the training by dotted name, without WAU and the seed; and WAU's arguments
        that are not the defaults, None without WAU.
    """
    parts = {name: value for name, value in cfg.items() if name in TRAINING and value is not None}
    for part in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        loader = parts.get(part)
        if isinstance(loader, Mapping) and loader.get('collate_fn') == COLLATE:
            parts[part] = {name: value for name, value in loader.items() if name != 'collate_fn'}
    for part, left_out in (('randomness', 'seed'), ('default_hooks', 'visualization')):
        parts[part] = dict(parts.get(part) or {})
        parts[part].pop(left_out, None)
    hooks = parts.pop('custom_hooks', None) or []
    # Of these the one only measures, and what the other one does is WAU.
    others = [hook for hook in hooks if _type(hook) not in ('WAUHook', 'OverlapHook')]
    if others:
        parts['custom_hooks'] = others
    wrapper = dict(parts['optim_wrapper'])
    kind = _type(wrapper) or 'OptimWrapper'
    wrapper['type'] = WITHOUT_WAU.get(kind, kind)
    wau = None
    if kind in WITHOUT_WAU:
        of_wrapper, of_hook = _defaults(WAUMixin), _defaults(WAUHook)
        given = {name: wrapper.pop(name) for name in of_wrapper if name in wrapper}
        for hook in hooks:
            if _type(hook) == 'WAUHook':
                given |= {name: value for name, value in hook.items() if name in of_hook}
        defaults = _plain({**of_wrapper, **of_hook})
        wau = {name: value for name, value in _plain(given).items() if value != defaults[name]}
    parts['optim_wrapper'] = wrapper
    return dict(_flatten(parts)), wau


def differences(one: Mapping[str, object], other: Mapping[str, object]) -> list[str]:
    """What differs between settings by dotted name: each name with both values."""
    missing = object()
    return [
        f'{name} ({_value(one, name)}, {_value(other, name)})'
        for name in dict.fromkeys((*one, *other))
        if one.get(name, missing) != other.get(name, missing)
    ]


def _value(settings: Mapping[str, object], name: str) -> str:
    return str(settings[name])[:60] if name in settings else 'not set'


def _type(part: Mapping) -> str | None:
    return type_name(part.get('type'))


def _defaults(owner: type) -> dict[str, object]:
    """Arguments that have a default, without those that only say what is measured."""
    parameters = signature(owner).parameters
    return {
        name: parameter.default
        for name, parameter in parameters.items()
        if parameter.default is not Parameter.empty and name not in MEASURING
    }


def _plain(value: Any) -> Any:
    """Tuples as lists, which is how most configs come back from a file."""
    if isinstance(value, Mapping):
        return {name: _plain(inner) for name, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, (list, tuple)) else value


def _flatten(value: object, name: str = '') -> Iterator[tuple[str, object]]:
    """The values of nested dicts and of lists of dicts, by dotted name."""
    if isinstance(value, (list, tuple)) and value and all(isinstance(v, Mapping) for v in value):
        value = dict(enumerate(value))
    if not isinstance(value, Mapping):
        yield name, _plain(value)
        return
    for key, inner in value.items():
        yield from _flatten(inner, f'{name}.{key}' if name else str(key))
