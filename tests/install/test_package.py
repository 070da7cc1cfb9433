"""What an installation has: wheels and clones, each in an environment of its own."""

import filecmp
import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import mmengine
import pytest
import yaml
from detection import ROOT
from mmengine.config import Config
from mmengine.utils import digit_version
from packaging.requirements import Requirement

import mmwau
from mmwau.datasets.shapes import make_shapes
from mmwau.engine.package_configs import read_config

# What a source distribution and a wheel are made of.
SOURCES = (
    'LICENSE MANIFEST.in README.md configs mmwau model-index.yml pyproject.toml requirements '
    'setup.py tools'
)
NOT_COPIED = ('__pycache__', '.mim')
# Installs a clone.
NOT_IN_WHEEL = 'install.py'


def run(*command, cwd, fails=False):
    """What a command prints; it knows nothing of the clone."""
    env = {key: value for key, value in os.environ.items() if key != 'PYTHONPATH'}
    done = subprocess.run(list(map(str, command)), cwd=cwd, env=env, capture_output=True, text=True)
    assert bool(done.returncode) == fails, done.stderr
    return done.stderr if fails else done.stdout


@pytest.fixture(scope='module')
def place(tmp_path_factory):
    return tmp_path_factory.mktemp('package')


@pytest.fixture(scope='module')
def source(place):
    """A copy of the clone, so that nothing is built in it."""
    source = place / 'source'
    source.mkdir()
    for name in SOURCES.split():
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns(*NOT_COPIED))
        else:
            shutil.copy(ROOT / name, source)
    return source


@pytest.fixture(scope='module')
def wheel(place, source):
    """The wheel that a source distribution gives."""
    build = 'from setuptools.build_meta import build_sdist; build_sdist("..")'
    run(sys.executable, '-c', build, cwd=source)
    (sdist,) = place.glob('*.tar.gz')
    options = ['--no-deps', '--no-index', '--no-build-isolation', '-w', place]
    run(sys.executable, '-m', 'pip', 'wheel', '-q', *options, sdist, cwd=place)
    (wheel,) = place.glob('*.whl')
    return wheel


def environment(folder, others, *what):
    """A Python with what is installed first, and the packages in another folder after that."""
    venv.create(folder, symlinks=True)
    python = folder / 'bin' / 'python'
    options = ['-q', '--no-deps', '--no-index', '--no-build-isolation']
    (site,) = folder.glob('lib/python*/site-packages')
    (site / 'others.pth').write_text(f'{others}\n')
    run(sys.executable, '-m', 'pip', '--python', python, 'install', *options, *what, cwd=folder)
    return python, site


def required_by(distribution, extra=''):
    required = map(Requirement, distribution.requires or [])
    chosen = {'extra': extra}
    return [each.name for each in required if not each.marker or each.marker.evaluate(chosen)]


def link(folder, wanted):
    """Links to packages and all that they require, and to nothing else."""
    folder.mkdir()
    linked = set()
    while wanted:
        name = wanted.pop()
        if name in linked:
            continue
        linked.add(name)
        try:
            distribution = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            pytest.skip(f'{name} is not installed')
        for part in {path.parts[0] for path in distribution.files}:
            if part not in ('..', '__pycache__') and not (folder / part).exists():
                (folder / part).symlink_to(distribution.locate_file(part))
        wanted += required_by(distribution)


def environment_of_its_own(place, wheel, extra=''):
    """Python with the wheel and what it requires."""
    python, site = environment(place / f'with_{extra}', place / f'required_{extra}', wheel)
    (metadata,) = site.glob('mmwau-*.dist-info')
    installed = importlib.metadata.Distribution.at(metadata)
    link(place / f'required_{extra}', required_by(installed, extra))
    return python


@pytest.fixture(scope='module')
def whole(place, wheel):
    """Python with the wheel and all that this one has, and the folder of its packages."""
    return environment(place / 'whole', sysconfig.get_path('purelib'), wheel)


def python_blocks(page, word):
    blocks = re.findall(r'^```python\n(.*?)^```', page.read_text(), re.M | re.S)
    return [block for block in blocks if word in block]


@pytest.mark.slow
def test_with_torch_alone_the_loops_run_and_the_rest_says_what_it_needs(place, wheel):
    pages = (ROOT / 'README.md', ROOT / 'docs' / 'usage.md')
    loops = [loop for page in pages for loop in python_blocks(page, 'from torch import nn')]
    assert len(loops) >= 2
    code = (
        'import json, mmwau, torch\n'
        'from importlib.metadata import version\n'
        'from importlib.util import find_spec\n'
        f'for loop in {loops!r}:\n'
        '    exec(loop, there := {})\n'
        'from mmwau import *\n'
        'from mmwau.overlap import layer_overlap\n'
        'overlap = layer_overlap(there["model"][0])\n'
        'others = "mmengine", "mmcv", "mmdet", "numpy", "yaml"\n'
        'found = [name for name in others if find_spec(name)]\n'
        'versions = mmwau.__version__, version("mmwau")\n'
        'told = []\n'
        'for name in ("WAUOptimWrapper", "WaU"):\n'
        '    try:\n'
        '        exec(f"from mmwau import {name}")\n'
        '    except ImportError as error:\n'
        '        told.append(f"{type(error).__name__}: {error}")\n'
        'print(json.dumps([mmwau.__file__, found, *versions, float(overlap), *told]))\n'
    )
    python = environment_of_its_own(place, wheel)
    path, found, *versions, overlap, needs, unknown = json.loads(run(python, '-c', code, cwd=place))
    assert Path(path).is_relative_to(place / 'with_')
    assert found == []
    assert versions == [mmwau.__version__] * 2
    assert 0 < overlap < 1
    assert needs.startswith('ModuleNotFoundError: mmwau.WAUOptimWrapper needs MMEngine, which is')
    assert "pip install 'mmwau[engine]'" in needs
    assert unknown.startswith("ImportError: cannot import name 'WaU' from 'mmwau'")


@pytest.mark.slow
def test_the_extra_engine_is_enough_to_register_everything(place, wheel):
    python = environment_of_its_own(place, wheel, 'engine')
    code = (
        'import json, mmwau\n'
        'from importlib.util import find_spec\n'
        'from mmengine.registry import DATASETS, HOOKS, MODELS, OPTIM_WRAPPERS\n'
        'others = "mmcv", "mmdet", "mmpretrain", "pytorchcv", "scipy"\n'
        'found = [name for name in others if find_spec(name)]\n'
        'assert OPTIM_WRAPPERS.get("WAUAmpOptimWrapper") is mmwau.WAUAmpOptimWrapper\n'
        'assert HOOKS.get("RePrHook") is mmwau.RePrHook\n'
        'assert MODELS.get("CIFARAlexNet") and DATASETS.get("CIFARBatches")\n'
        'print(json.dumps([mmwau.__file__, found]))\n'
    )
    path, found = json.loads(run(python, '-c', code, cwd=place))
    assert Path(path).is_relative_to(place / 'with_engine')
    assert found == []


def files_below(folder):
    return sorted(
        path.relative_to(folder)
        for path in folder.rglob('*')
        if path.is_file() and '__pycache__' not in path.parts
    )


def loads_by_base(python, cwd):
    """Read configs as a user's own config and as Python inherit them; where mmwau is."""
    cwd.mkdir(exist_ok=True)
    for number, base in enumerate(
        ['detection/faster_rcnn_r101_wau_1x_coco.py', 'faster_rcnn_r50_wau_coco.py']
    ):
        (cwd / f'text{number}.py').write_text(f"_base_ = 'mmwau::{base}'\n")
    (cwd / 'new.py').write_text(
        'from mmengine.config import read_base\n'
        'with read_base():\n'
        '    from mmwau.configs.faster_rcnn_r50_wau_coco_new_style import *\n'
    )
    code = (
        'import json, sys\n'
        'from mmengine.config import Config\n'
        'new = Config.fromfile("new.py").to_dict()\n'
        'assert "mmwau" not in sys.modules\n'
        'import mmwau\n'
        'from mmwau.engine.package_configs import read_config\n'
        'read = [read_config(f"text{number}.py").to_dict() for number in range(2)]\n'
        'print(json.dumps([mmwau.__file__, new, *read]))\n'
    )
    path, new, *texts = json.loads(run(python, '-c', code, cwd=cwd))
    assert new['optim_wrapper']['type'] == 'mmwau.WAUOptimWrapper'
    assert [text['optim_wrapper']['type'] for text in texts] == ['WAUOptimWrapper'] * 2
    assert [text['model']['backbone']['depth'] for text in texts] == [101, 50]
    return Path(path)


@pytest.mark.slow
class TestWithTheWholeStack:
    def test_configs_and_tools_are_those_of_the_clone(self, whole):
        mim = whole[1] / 'mmwau' / '.mim'
        for part in ('configs', 'tools'):
            files = [path for path in files_below(ROOT / part) if path.name != NOT_IN_WHEEL]
            assert files_below(mim / part) == files
            assert len(files) > 5
            same, *_ = filecmp.cmpfiles(mim / part, ROOT / part, files, shallow=False)
            assert same == files
        assert (mim / 'model-index.yml').read_text() == (ROOT / 'model-index.yml').read_text()
        assert os.access(mim / 'tools' / 'dist_train.sh', os.X_OK) == os.access(
            ROOT / 'tools' / 'dist_train.sh', os.X_OK
        )
        new = Path('mmwau', 'configs')
        assert files_below(whole[1] / new) == files_below(ROOT / new)

    def test_type_checkers_are_told_that_it_has_types(self, whole):
        assert (whole[1] / 'mmwau' / 'py.typed').is_file()

    def test_configs_are_inherited(self, whole, place):
        path = loads_by_base(whole[0], place / 'configs_of_ones_own')
        assert path.is_relative_to(place / 'whole')

    def test_its_training_script_trains_what_inherits_from_it(self, whole, place):
        make_shapes(place / 'data' / 'demo', {'train': 4, 'val': 1}, image_size=64)
        mine = place / 'mine.py'
        mine.write_text(
            "_base_ = 'mmwau::faster_rcnn_r18_wau_demo.py'\n"
            'train_cfg = dict(max_epochs=1)\n'
            'train_dataloader = dict(num_workers=0, persistent_workers=False)\n'
            'val_cfg = val_dataloader = val_evaluator = None\n'
            'default_hooks = dict(logger=dict(interval=1))\n'
        )
        train = whole[1] / 'mmwau' / '.mim' / 'tools' / 'train.py'
        told = run(whole[0], train, mine, cwd=place)
        assert 'active_fraction: 0.5000' in told
        assert (place / 'work_dirs' / 'mine' / 'epoch_1.pth').exists()
        # What it trained is the clone's config with these changes.
        asked = Config.fromfile(ROOT / 'configs' / 'faster_rcnn_r18_wau_demo.py').to_dict()
        trained = Config.fromfile(place / 'work_dirs' / 'mine' / 'mine.py').to_dict()
        for part in ('model', 'optim_wrapper', 'custom_hooks', 'param_scheduler', 'train_pipeline'):
            assert trained[part] == asked[part]

    @pytest.mark.skipif(
        digit_version(mmengine.__version__) <= digit_version('0.10.7'),
        reason='read_base of MMEngine 0.10.7 finds no config of an editable installation',
    )
    def test_an_editable_installation_has_them_too(self, place, source):
        others = sysconfig.get_path('purelib')
        python, _ = environment(place / 'editable', others, '-e', source)
        path = loads_by_base(python, place / 'configs_in_a_clone')
        assert path == source / 'mmwau' / '__init__.py'
        for name in ('configs', 'tools', 'model-index.yml'):
            link = source / 'mmwau' / '.mim' / name
            assert link.is_symlink()
            assert link.samefile(source / name)


def test_a_config_that_the_package_has_not_is_reported(tmp_path):
    (tmp_path / 'mine.py').write_text("_base_ = 'mmwau::faster_rcnn_r5_wau_coco.py'\n")
    with pytest.raises(FileNotFoundError, match=r'mine.py: _base_ names mmwau::faster_rcnn_r5_wau'):
        read_config(tmp_path / 'mine.py')


def test_the_parser_of_model_indexes_finds_no_fault():
    parser = pytest.importorskip('modelindex.load_model_index')  # MMPreTrain brings it
    assert parser.load(str(ROOT / 'model-index.yml')).check(silent=True) == []


def test_the_model_index_names_configs_that_exist():
    files = yaml.safe_load((ROOT / 'model-index.yml').read_text())['Import']
    read = [yaml.safe_load((ROOT / path).read_text()) for path in files]
    (collection,) = (each for part in read for each in part.get('Collections', []))
    assert collection['Paper']['URL'] == 'https://doi.org/10.1007/s41095-020-0185-5'
    assert f'title: "{collection["Paper"]["Title"]}"' in (ROOT / 'CITATION.cff').read_text()
    models = [model for part in read for model in part['Models']]
    assert len({model['Name'] for model in models}) == len(models)
    for model in models:
        assert model['In Collection'] == collection['Name']
        assert (ROOT / model['Config']).is_file()
        assert Path(model['Config']).stem == model['Name']
        assert 'Weights' not in model


def test_results_of_the_model_index_are_those_of_the_documentation():
    page = ROOT / 'docs' / 'results' / 'bccd_cpu.md'
    text = page.read_text().replace('\N{NO-BREAK SPACE}', ' ')
    models = yaml.safe_load((ROOT / 'configs' / 'metafile.yml').read_text())['Models']
    told = {
        model['Name']: model['Results'][0]['Metrics']['box AP']
        for model in models
        if 'Results' in model
    }
    means = {
        name: 100 * float(re.search(rf'^\| {arm} \| \d+ of \d+ \| (0\.\d+)\b', text, re.M)[1])
        for name, arm in [
            ('faster_rcnn_r18_wau_bccd', 'WAU'),
            ('faster_rcnn_r18_wau_authors_bccd', "WAU, authors' code"),
        ]
    }
    assert told == pytest.approx(means)
