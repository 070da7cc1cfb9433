"""Configs of this package as bases: ``_base_ = 'mmwau::faster_rcnn_r50_wau_coco.py'``.

MMEngine takes such names for packages that it has in a list, with a folder in the path, and looks
up the types in what they bring in a registry of the package's name. What mmwau registers it
registers with MMEngine itself, and most types in its configs are those of MMDetection or
MMPreTrain, so that its configs are read like files of the reader's own.
"""

from pathlib import Path

from mmengine.config import Config

PREFIX = 'mmwau::'
# Where MIM looks too; setup.py puts them there.
FOLDER = Path(__file__).parents[1] / '.mim' / 'configs'

_find_config = Config._get_cfg_path


def find_config(base: str, filename: str) -> tuple[str, str | None]:
    """Find a config that another one names in ``_base_``.

    Args:
        base: The name.
        filename: The config that names it.

    Returns:
        Its path, and the scope of its types if that is not the default scope.

    Raises:
        FileNotFoundError: If this package has no such config.
    """
    if not base.startswith(PREFIX):
        return _find_config(base, filename)
    path = FOLDER / base.removeprefix(PREFIX)
    if not path.is_file():
        raise FileNotFoundError(
            f'{filename}: _base_ names {base}, and there is no {path}. The configs are the files '
            f"below that folder, for example 'mmwau::faster_rcnn_r50_wau_coco.py'"
        )
    return str(path), None


def take_bases() -> None:
    """Let MMEngine find this package's configs by their names."""
    Config._get_cfg_path = staticmethod(find_config)
