"""The tests of a GPU, simulated and real."""

import importlib
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

from .part import ROOT, Finding, NotPossibleError, Place

TESTS = ROOT / 'tests' / 'gpu'


def run_tests(place: Place, tests: Path = TESTS) -> Finding:
    """Run the tests of a GPU; without one, those that simulate it are run.

    Args:
        place: Where.
        tests: Their folder.

    Raises:
        NotPossibleError: If they are not there.
        ModuleNotFoundError: If a package is missing that they need.
        AssertionError: If some failed.
    """
    if not tests.is_dir():
        raise NotPossibleError(f'there is no {tests}: it is in a clone of the repository')
    for package in ('pytest', 'hypothesis', 'mmengine'):
        importlib.import_module(package)
    report = place.folder / 'tests.xml'
    command = [sys.executable, '-m', 'pytest', str(tests), '-q', '-p', 'no:cacheprovider']
    done = subprocess.run([*command, f'--junitxml={report}'], cwd=ROOT)
    if not report.is_file():
        raise AssertionError(f'pytest ended with status {done.returncode} before the first test')
    suites = list(ElementTree.parse(report).iter('testsuite'))
    counts = {
        kind: sum(int(suite.get(kind, 0)) for suite in suites)
        for kind in ('tests', 'failures', 'errors', 'skipped')
    }
    if done.returncode:
        names = [
            case.get('name', '')
            for case in ElementTree.parse(report).iter('testcase')
            if case.find('failure') is not None or case.find('error') is not None
        ]
        raise AssertionError(
            f'{len(names)} of {counts["tests"]} tests failed: {", ".join(names[:3])}'
        )
    passed = counts['tests'] - counts['skipped']
    return Finding(f'{passed} tests passed, {counts["skipped"]} were skipped', counts)
