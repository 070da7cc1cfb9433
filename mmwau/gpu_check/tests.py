"""The tests of a GPU, simulated and real."""

import importlib
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

from .part import ROOT, Finding, NotPossibleError, Place

TESTS = ROOT / 'tests' / 'gpu'
LACKING = re.compile(r"ModuleNotFoundError: No module named '([\w.]+)'")


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
    importlib.import_module('pytest')
    report = place.folder / 'tests.xml'
    command = [sys.executable, '-m', 'pytest', str(tests), '-q', '-p', 'no:cacheprovider']
    command.append(f'--junitxml={report}')
    done = subprocess.run(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    print(done.stdout)
    if not report.is_file():
        _refuse_lacking([done.stdout])
        raise AssertionError(f'pytest ended with status {done.returncode} before the first test')
    root = ElementTree.parse(report)
    counts = {
        kind: sum(int(suite.get(kind, 0)) for suite in root.iter('testsuite'))
        for kind in ('tests', 'failures', 'errors', 'skipped')
    }
    if done.returncode:
        failed = [
            case
            for case in root.iter('testcase')
            if case.find('failure') is not None or case.find('error') is not None
        ]
        _refuse_lacking([''.join(case.itertext()) for case in failed])
        names = ', '.join(case.get('name', '') for case in failed[:3])
        raise AssertionError(f'{len(failed)} of {counts["tests"]} tests failed: {names}')
    passed = counts['tests'] - counts['skipped']
    return Finding(f'{passed} tests passed, {counts["skipped"]} were skipped', counts)


def _refuse_lacking(texts: Sequence[str]) -> None:
    """Raise if each of what failed did so because a package is missing; ``texts`` are of these."""
    lacking = [LACKING.search(text) for text in texts]
    if lacking[0] and all(lacking):
        raise ModuleNotFoundError(lacking[0][0], name=lacking[0][1])
