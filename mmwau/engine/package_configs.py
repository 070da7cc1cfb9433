"""Configs of this package as bases: ``_base_ = 'mmwau::faster_rcnn_r50_wau_coco.py'``.

MMEngine takes such names for packages that it has in a list, with a folder in the path, and looks
up the types in what they bring in a registry of the package's name; there is no public way to name
another package. What mmwau registers it registers with MMEngine itself, and most types in its
configs are those of MMDetection or MMPreTrain, so that its configs are read like files of the
reader's own. MMEngine is changed only while a config is read here, never by importing mmwau.

MMEngine looks for MMSegmentation (``mmseg::``) by the name of its distribution alone, which is
another one in OneDL's; read here it is found under both.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest.mock import patch

from mmengine.config import Config
from mmengine.config.utils import MODULE2PACKAGE

# OpenMMLab's projects by the name that they are imported by, with the extra that installs them.
EXTRAS = {
    'mmdet': 'detection',
    'mmpretrain': 'classification',
    'mmseg': 'segmentation',
    'mmrotate': 'rotate',
    'mmpose': 'pose',
}
PREFIX = 'mmwau::'
# Where MIM looks too; setup.py puts them there.
FOLDER = Path(__file__).parents[1] / '.mim' / 'configs'


def read_config(name: str | Path, **options: object) -> Config:
    """Read a config whose bases, or which itself, may be configs of packages.

    Args:
        name: A file, or the name of a config in a package: ``mmdet::FOLDER/NAME.py``, ``mmwau::``.
        **options: Those of ``Config.fromfile``.

    Returns:
        The config.

    Raises:
        FileNotFoundError: If there is no such config.
        ModuleNotFoundError: If the package is not installed.
    """
    with package_bases():
        if '::' in str(name):
            if not str(name).endswith('.py'):
                raise FileNotFoundError(
                    f'The name of a config in a package ends with .py, got {name}. Such names are '
                    'like mmdet::FOLDER/NAME.py'
                )
            Config._get_cfg_path(str(name), str(name))  # says what is wrong with the name itself
            with TemporaryDirectory() as folder:  # a file of that name, after which runs are named
                path = Path(folder) / Path(name).name
                path.write_text(f'_base_ = {str(name)!r}\n')
                return Config.fromfile(path, **options)
        if not Path(name).is_file():
            raise FileNotFoundError(f'The config {name} does not exist (from {Path.cwd()})')
        return Config.fromfile(name, **options)


@contextmanager
def package_bases() -> Iterator[None]:
    """Let MMEngine find this package's configs, and MMSegmentation's, by their names within it."""
    original = Config.__dict__['_get_cfg_path']

    def find_config(base: str, filename: str) -> tuple[str, str | None]:
        package = base.partition('::')[0]
        names = base if base == filename else f'{filename}: _base_ names {base}, which'
        if package in EXTRAS and not find_spec(package):
            raise ModuleNotFoundError(
                f'{names} is of {package}, and {package} is not installed. To install it: '
                f"pip install 'mmwau[{EXTRAS[package]}]'"
            )
        if not base.startswith(PREFIX):
            try:
                return original.__func__(base, filename)
            except ModuleNotFoundError as error:
                raise ModuleNotFoundError(f'{names} can not be read: {error}') from error
            except (AssertionError, OSError, ValueError) as error:
                raise FileNotFoundError(
                    f'{names} is no config of an installed package: {str(error).rstrip(".")}. Such '
                    'names are like mmdet::FOLDER/NAME.py'
                ) from error
        path = FOLDER / base.removeprefix(PREFIX)
        if not path.is_file():
            raise FileNotFoundError(
                f'{names} is no config of mmwau: there is no {path}. The configs are the files '
                f"below that folder, for example 'mmwau::faster_rcnn_r50_wau_coco.py'"
            )
        return str(path), None

    Config._get_cfg_path = staticmethod(find_config)
    try:
        with patch.dict(MODULE2PACKAGE, mmseg='mmseg'):
            yield
    finally:
        Config._get_cfg_path = original
