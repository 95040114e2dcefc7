"""Every command and every piece of Python in README and docs runs as written.

A fenced block is run with the others of its page, in order, in one empty folder. A block after a line
`<!-- not run: reason -->` is not: it needs something that a test must not assume (a GPU, a network, a clone, minutes).
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = sorted([ROOT / 'README.md', *(ROOT / 'docs').rglob('*.md')])
BLOCK = re.compile(
    r'(?:^<!-- (?P<mark>not run: [^\n]+) -->\n+)?^```(?P<language>bash|python)\n(?P<code>.*?)^```$', re.M | re.S
)


def blocks(page):
    return [(match['language'], match['code']) for match in BLOCK.finditer(page.read_text()) if not match['mark']]


def test_pages_have_blocks():
    assert ROOT / 'README.md' in PAGES
    for page in PAGES:
        fences = re.findall(r'^```(?:bash|python)$', page.read_text(), re.M)
        assert len(list(BLOCK.finditer(page.read_text()))) == len(fences), f'{page.name} has a block that is not seen'
        assert fences, f'{page.name} shows no command'


@pytest.mark.parametrize('page', PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_run(page, tmp_path):
    # The command as installed beside this Python, wherever the tests run from.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ['PATH']])
    assert shutil.which('hetconv', path=path), 'the package is not installed: pip install -e .'
    for language, code in blocks(page):
        command = ['bash', '-euo', 'pipefail', '-c', code] if language == 'bash' else [sys.executable, '-c', code]
        result = subprocess.run(
            command, cwd=tmp_path, env={**os.environ, 'PATH': path}, capture_output=True, text=True, timeout=600
        )
        assert result.returncode == 0, f'{code}\n{result.stdout[-2000:]}\n{result.stderr[-2000:]}'


@pytest.mark.parametrize('page', PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    for target in re.findall(r'\]\(([^)#\s]+)', page.read_text()):
        if not target.startswith(('http://', 'https://')):
            assert (page.parent / target).exists(), f'{page.name}: {target}'


@pytest.fixture
def benchmarks(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / 'benchmarks')


def test_readme_has_the_figures_of_the_run_in_the_repository(benchmarks):
    import readme_table

    from inference.rows import Run

    readme = (ROOT / 'README.md').read_text()
    assert readme_table.embed(readme, readme_table.table(Run.load(readme_table.RESULT))) == readme


def test_the_page_on_accuracy_has_the_figures_of_the_results_in_the_repository(tmp_path):
    import shutil

    from inference.reproduce.report import write_accuracy

    results = Path('benchmarks', 'results', 'accuracy')
    shutil.copytree(ROOT / results, tmp_path / results)
    (tmp_path / 'docs').mkdir()
    page, _ = write_accuracy(tmp_path / results, tmp_path / 'docs')
    assert page.read_text() == (ROOT / 'docs' / page.name).read_text()


def test_the_page_on_serving_has_the_figures_of_the_rows_in_the_repository(benchmarks):
    import json

    import serving_table

    page = serving_table.PAGE.read_text()
    paths = (serving_table.RESULT, serving_table.SOAK, serving_table.OVERHEAD)
    rows = [json.loads(path.read_text()) for path in paths]
    assert serving_table.embed(page, serving_table.table(*rows)) == page


def test_the_page_on_int8_has_the_figures_of_the_rows_in_the_repository(benchmarks):
    import int8_table

    page = int8_table.PAGE.read_text()
    assert int8_table.embed(page, int8_table.table()) == page
