"""What pyproject.toml has no words for: configs and tools as parts of the package.

MMEngine (``_base_ = 'mmwau::...'``) and MIM (``mim train mmwau ...``) look for them in ``.mim``
inside of the package. A wheel holds copies there; an editable installation gets links to the
folders of the clone, which git ignores.
"""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

PARTS = ('configs', 'tools', 'model-index.yml')
# install.py installs a clone; an installed package has no use for it.
LEFT_OUT = shutil.ignore_patterns('__pycache__', 'install.py')


class BuildWithConfigs(build_py):
    """Builds the package with its ``.mim``."""

    def run(self):
        """Build the package, then put the parts into its ``.mim``."""
        super().run()
        root = Path(__file__).parent
        package = root if self.editable_mode else Path(self.build_lib)
        mim = package / 'mmwau' / '.mim'
        mim.mkdir(exist_ok=True)
        for part in PARTS:
            source, target = root / part, mim / part
            if self.editable_mode:
                target.unlink(missing_ok=True)
                target.symlink_to(Path('..', '..', part))
            elif source.is_dir():
                shutil.copytree(source, target, ignore=LEFT_OUT, dirs_exist_ok=True)
            else:
                shutil.copy(source, target)


setup(cmdclass={'build_py': BuildWithConfigs})
