"""What the pages of the documentation hold: fenced blocks, commands, links and tables."""

import argparse
import ast
import contextlib
import functools
import io
import os
import re
import runpy
import shlex
import stat
import subprocess
import sys
from importlib.metadata import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple
from unittest.mock import patch
from urllib.parse import urlsplit

import mmdet
from detection import ROOT

FOLDERS = ('configs', 'docs', 'examples', 'mmwau', 'tests', 'tools')
PAGES = {
    str(path.relative_to(ROOT)): path.read_text()
    for path in sorted(
        [*ROOT.glob('*.md'), *(p for f in FOLDERS for p in ROOT.glob(f'{f}/**/*.md'))]
    )
    if not any(part.startswith('.') for part in path.relative_to(ROOT).parts)
}
MAKE_TARGETS = re.findall(r'^([\w-]+):', (ROOT / 'Makefile').read_text(), re.MULTILINE)
# Programs that are not ours: what they are given is not looked at.
OTHERS = ('cd', 'git', 'jupyter', 'mim', 'pre-commit', 'source')
# Only the name of a script between backticks is no command.
COMMAND = re.compile(r'(?:python3?|bash|make|pip) .+|[a-z_]+\.(?:py|sh) .+')


class Block(NamedTuple):
    """A fenced block; the line is that of its fence, from 1."""

    page: str
    line: int
    language: str
    text: str


def blocks_of(page, text):
    blocks, fence = [], None
    for number, line in enumerate(text.splitlines(), start=1):
        mark = re.match(r' *(`{3,}|~{3,}) *(.*)$', line)
        if fence is None and mark:
            fence, language, start, inside = mark[1], mark[2], number, []
        elif fence is not None and mark and mark[1].startswith(fence) and not mark[2]:
            blocks.append(Block(page, start, language, ''.join(inside)))
            fence = None
        elif fence is not None:
            inside.append(f'{line}\n')
    assert fence is None, f'{page}:{start}: the block has no end'
    return blocks


def kind_of(block):
    """How a block is checked, or None if nothing checks it."""
    if block.language == 'bash':
        return 'commands'
    if block.language == 'bibtex':
        return 'citation'
    if block.language == 'text' and '──' in block.text:
        return 'drawing'
    if block.language != 'python':
        return None
    if 'read_base' in block.text:
        return 'config'
    body = ast.parse(block.text).body
    if any(isinstance(part, (ast.Import, ast.ImportFrom)) for part in body):
        return 'program'
    if not all(isinstance(part, ast.Assign) for part in body):
        return None
    names = {target.id for part in body for target in part.targets}
    if {'arms', 'settings'} <= names:
        return 'suite'
    return (
        'config' if names & {'_base_', 'custom_hooks', 'custom_imports', 'optim_wrapper'} else None
    )


def text_without_blocks(text):
    return re.sub(r'^ *(`{3,}|~{3,}).*?^ *\1 *$', '', text, flags=re.MULTILINE | re.DOTALL)


def code_spans(text):
    """What stands between single backticks, as one line each."""
    spans = re.findall(r'(?<!`)`([^`]+)`(?!`)', text_without_blocks(text))
    return [' '.join(span.split()) for span in spans]


def commands_of(page, text):
    """Commands of the blocks, and those between backticks."""
    commands = []
    for block in blocks_of(page, text):
        if kind_of(block) == 'commands':
            commands += block.text.replace('\\\n', ' ').splitlines()
    commands += [span for span in code_spans(text) if COMMAND.fullmatch(span)]
    return [command for command in commands if shlex.split(command, comments=True)]


class Found(BaseException):
    """Carries a parser out of its script, before the script does anything."""


@functools.cache
def parser_of(script):
    """The parser of a script's options, or None if it takes none."""
    if 'ArgumentParser(' not in script.read_text():
        return None

    def stop(parser, *args, **kwargs):
        raise Found(parser)

    arguments = patch.object(sys, 'argv', [str(script)])
    folder = patch.object(sys, 'path', [str(script.parent), *sys.path])  # as Python has it
    with arguments, folder, patch.object(argparse.ArgumentParser, 'parse_args', stop):
        try:
            runpy.run_path(str(script), run_name='__main__')
        except Found as found:
            parser = found.args[0]
            parser.allow_abbrev = False  # what is written down is written out
            return parser
    raise AssertionError(f'{script} does not parse its options')


def why_not_parsed(script, arguments):
    """Why a script does not take the arguments, or an empty string if it does."""
    parser = parser_of(script)
    if parser is None:
        return 'it takes no options' if arguments else ''
    told = io.StringIO()
    with contextlib.redirect_stderr(told), contextlib.redirect_stdout(told):
        try:
            parser.parse_args(arguments)
        except SystemExit as stopped:
            return told.getvalue().splitlines()[-1] if stopped.code else ''
    return ''


def through_shell(script, arguments, folder):
    """The Python script that a shell script starts, with its arguments."""
    echo = folder / 'srun'
    echo.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    echo.chmod(echo.stat().st_mode | stat.S_IXUSR)
    env = {**os.environ, 'PATH': f'{folder}:{os.environ["PATH"]}', 'PYTHON': str(echo)}
    done = subprocess.run(
        ['bash', str(script), *arguments], env=env, capture_output=True, text=True, check=False
    )
    if done.returncode:
        return None, done.stderr
    words = done.stdout.splitlines()
    place = next(
        place for place, word in enumerate(words) if word.endswith('.py') and '=' not in word
    )
    return ROOT / 'tools' / os.path.basename(words[place]), words[place + 1 :]


def why_not_a_command(command, folder):
    """Why a command would not run, or an empty string."""
    program, *arguments = shlex.split(command, comments=True)
    if os.path.basename(program) in OTHERS:
        return ''
    if program == 'make':
        unknown = [target for target in arguments if target not in MAKE_TARGETS]
        return f'the Makefile has no {" ".join(unknown)}' if unknown else ''
    if program == 'pip':
        return _why_not_pip(arguments)
    if re.search(r'(^|/)python3?$', program) and arguments[:1] == ['-m']:
        module = arguments[1]
        return '' if find_spec(module) else f'there is no module {module}'
    if program.endswith(('.py', '.sh')):
        arguments = [program, *arguments]
    elif not re.search(r'(^|/)(python3?|bash)$', program):
        return f'nothing checks {program!r}; add it to tests/helpers/pages.py'
    script, *arguments = arguments
    if script.startswith('mmdetection/'):  # a clone of it has what the package brings along
        found = [Path(mmdet.__file__).parent / '.mim' / script.removeprefix('mmdetection/')]
    else:
        found = [ROOT / script] if '/' in script else [*ROOT.glob(f'tools/**/{script}')]
    if len(found) != 1 or not found[0].is_file():
        return f'there is no {script}'
    script = found[0]
    if script.suffix == '.sh':
        script, arguments = through_shell(script, arguments, folder)
        if script is None:
            return arguments
    return why_not_parsed(script, arguments)


def _why_not_pip(arguments):
    extras = metadata('mmwau').get_all('Provides-Extra')
    for argument in arguments:
        if argument.endswith('.txt') and not (ROOT / argument).is_file():
            return f'there is no {argument}'
        named = re.fullmatch(r'(?:mmwau|\.)\[([\w,]+)\]', argument)
        unknown = [extra for extra in named[1].split(',') if extra not in extras] if named else []
        if unknown:
            return f'mmwau has no extra {" ".join(unknown)}'
    return ''


def slugs_of(text):
    """The anchors of a page's headings, as GitHub makes them."""
    slugs, seen = set(), {}
    for heading in re.findall(r'^#{1,6} +(.+?) *#*$', text_without_blocks(text), re.MULTILINE):
        words = re.sub(r'!?\[([^\]]*)\]\([^)]*\)', r'\1', heading)
        slug = re.sub(r'[^\w\- ]', '', words.lower()).replace(' ', '-')
        seen[slug] = seen.get(slug, -1) + 1
        slugs.add(f'{slug}-{seen[slug]}' if seen[slug] else slug)
    return slugs


def links_of(text):
    """Targets of links and pictures; of a reference that is not defined, its name in brackets."""
    text = re.sub(r'(?<!`)`[^`]+`(?!`)', '`code`', text_without_blocks(text))
    defined = dict(re.findall(r'^\[([^\]]+)\]: *(\S+)', text, re.MULTILINE))
    links = re.findall(r'\]\(([^()\s]*(?:\([^()\s]*\)[^()\s]*)*)(?: +"[^"]*")?\)', text)
    links += re.findall(r'(?:src|href)="([^"]*)"', text)
    links += re.findall(r'<(https?:[^>]*)>', text)
    references = re.findall(r'\[[^\[\]]+\]\[([^\]]+)\]', text)
    undefined = [f'[{name}]' for name in references if name not in defined]
    return [*links, *defined.values(), *undefined]


def why_not_a_link(page, link, pages=PAGES):
    """Why a link leads nowhere, or an empty string. Of links to the internet, the form counts."""
    if re.match(r'[a-z]+:', link):
        parts = urlsplit(link)
        good = parts.scheme in ('http', 'https') and re.fullmatch(
            r'[\w-]+(\.[\w-]+)+', parts.netloc
        )
        return '' if good else 'is no address'
    if link.startswith('['):
        return 'is not defined'
    name, _, anchor = link.partition('#')
    place = (ROOT / page).parent / name if name else ROOT / page
    place = place.resolve()
    if not place.is_relative_to(ROOT) or not place.exists():
        return 'does not exist'
    if '#' not in link:
        return ''
    target = str(place.relative_to(ROOT))
    if anchor not in slugs_of(pages.get(target, '')):
        return f'{target} has no heading for #{anchor}'
    return ''


def tables_of(text):
    """The tables of a page: for each a list of rows, the header first, of cells."""
    tables, table = [], []
    for line in [*text_without_blocks(text).splitlines(), '']:
        if line.startswith('|'):
            cells = [cell.strip() for cell in re.split(r'(?<!\\)\|', line)[1:-1]]
            if not all(re.fullmatch(r':?-+:?', cell) for cell in cells):
                table.append(cells)
        elif table:
            tables.append(table)
            table = []
    return tables
