"""WAU on any config: ``--wau`` of the training script.

A preset is a file of ``configs/_base_/wau/``; the configs with WAU read the same files.
"""

from mmengine.config import Config

from mmwau.engine.package_configs import FOLDER
from mmwau.engine.type_names import type_name

AMP_COUNTERPART = {'OptimWrapper': 'AmpOptimWrapper', 'WAUOptimWrapper': 'WAUAmpOptimWrapper'}
WAU_COUNTERPART = {'OptimWrapper': 'WAUOptimWrapper', 'AmpOptimWrapper': 'WAUAmpOptimWrapper'}


def preset_names() -> list[str]:
    """Names of the presets."""
    return sorted(path.stem for path in (FOLDER / '_base_' / 'wau').glob('*.py'))


def use_wau(cfg: Config, preset: str) -> None:
    """Put WAU on the config of a baseline.

    An OverlapHook becomes a WAUHook, which logs the same; what it measures is what is held.

    Raises:
        ValueError: If the config has WAU already, or an optimizer wrapper that WAU can't replace.
    """
    settings = dict(Config.fromfile(FOLDER / '_base_' / 'wau' / f'{preset}.py').wau)
    wrapper = type_name((cfg.get('optim_wrapper') or {}).get('type', 'OptimWrapper'))
    hooks = list(cfg.get('custom_hooks') or [])
    names: list[str | None] = [
        type_name(hook.get('type')) if isinstance(hook, dict) else None for hook in hooks
    ]
    if wrapper in WAU_COUNTERPART.values() or 'WAUHook' in names:
        raise ValueError(
            f'--wau {preset}: the config has WAU already (optim_wrapper.type is {wrapper!r}). '
            'Leave out --wau, or give it with the baseline of this config'
        )
    if wrapper not in WAU_COUNTERPART:
        raise ValueError(
            f'--wau {preset} changes optim_wrapper.type to its counterpart with WAU, which exists '
            f'for {", ".join(WAU_COUNTERPART)}; this config has {wrapper!r}'
        )
    settings['type'] = WAU_COUNTERPART[wrapper]
    if 'OverlapHook' in names:
        place = names.index('OverlapHook')
        hook = dict(hooks[place], type='WAUHook')
        if 'targets' in hook:
            settings['targets'] = hook.pop('targets')
        hooks[place] = hook
    else:
        hooks.append(dict(type='WAUHook'))
    imports = dict(cfg.get('custom_imports') or dict(imports=[], allow_failed_imports=False))
    named = imports['imports']
    named = [named] if isinstance(named, str) else list(named)
    imports['imports'] = named if 'mmwau' in named else [*named, 'mmwau']
    cfg.merge_from_dict(dict(optim_wrapper=settings))
    cfg.custom_hooks, cfg.custom_imports = hooks, imports


def use_amp(cfg: Config) -> None:
    """Change the optimizer wrapper to its counterpart for automatic mixed precision.

    Raises:
        ValueError: If the wrapper has no known counterpart.
    """
    wrapper = type_name(cfg.optim_wrapper.get('type', 'OptimWrapper'))
    if wrapper in AMP_COUNTERPART.values():
        return
    if wrapper not in AMP_COUNTERPART:
        raise ValueError(
            f'--amp changes optim_wrapper.type to its AMP counterpart, which exists for '
            f'{", ".join(AMP_COUNTERPART)}; this config has {wrapper!r}'
        )
    cfg.optim_wrapper.type = AMP_COUNTERPART[wrapper]
    cfg.optim_wrapper.setdefault('loss_scale', 'dynamic')
