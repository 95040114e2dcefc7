"""The page and its Markdown twin: well-formed, self-contained, complete, and safe with any text in a run."""

import json
import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser

import pytest
from typer.testing import CliRunner

pytest.importorskip('jinja2')
pytest.importorskip('matplotlib')
pytest.importorskip('pydantic')

from synthetic_runs import fail, hundred, long_names, make_layers, make_rows, make_run, ragged

from inference import cli
from inference.errors import UserError
from inference.report import read_accuracy, write_report
from inference.rows import LayerRow
from inference.summary import main_lines, ms_text, percent_text, times_text

VOID = {'meta', 'wbr', 'br', 'hr', 'img', 'input', 'link'}
EVIL = '<script>alert(1)</script>'


class Page(HTMLParser):
    """What a browser would see: elements, table rows, and whether every tag is closed in turn."""

    def __init__(self, text):
        super().__init__()
        self.open, self.elements, self.tables, self.headings, self.texts = [], [], [], [], []
        self.text = ''
        self.feed(text)
        self.close()
        assert self.open == [], 'tags left open'

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag == 'table':
            self.tables.append([])
        if tag == 'tr':
            self.tables[-1].append([])
        if tag in ('th', 'td'):
            self.tables[-1][-1].append('')
        if tag in ('h1', 'h2'):
            self.headings.append('')
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open, f'</{tag}> closes nothing'
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not {'style', 'script'} & set(self.open):
            self.text += data
        if {'th', 'td'} & set(self.open):
            self.tables[-1][-1][-1] += data
        if {'h1', 'h2'} & set(self.open):
            self.headings[-1] += data


@pytest.fixture
def report(tmp_path, monkeypatch):
    """`report(run)`: the parsed page, its source, and the Markdown; without pictures, which take seconds."""
    monkeypatch.setattr('inference.plots.PLOTS', ())
    monkeypatch.setattr('inference.figures.FIGURES', {})

    def write(run, **kwargs):
        assert write_report(run, tmp_path, **kwargs) == [tmp_path / 'index.html', tmp_path / 'report.md']
        source = (tmp_path / 'index.html').read_text()
        return Page(source), source, (tmp_path / 'report.md').read_text()

    return write


RUNS = {
    'ragged': ragged,
    'hundred': hundred,
    'empty': make_run,
    'one row': lambda: make_run(make_rows(parts=(), engines=('torch',))),
    'one compared row': lambda: make_run(make_rows(engines=('torch',))[1:]),
    'all failed': lambda: make_run([fail(row) for row in make_rows()], complete=False),
    'layers only': lambda: make_run(layers=make_layers()),
    'no settings': lambda: make_run(make_rows()).model_copy(update=dict(settings={}, environment={})),
    'settings mixed': lambda: make_run(make_rows(batch=8) + make_rows(precision='int8') + make_rows(threads=64)),
    'long names': long_names,
    'formulas': lambda: make_run(make_rows(r'$\frac{a$b$_', (4,), engines=(r'$\nonsense$', '_hidden', r'\$', '$'))),
    'markup': lambda: make_run(
        make_rows('a"b\'<i>', (4,), engines=(EVIL, 'a|b`c*d', '--></svg>', 'x\ny')), cpu=EVIL, **{EVIL: '1 & 2'}
    ),
}


@pytest.fixture(params=RUNS, scope='module')
def rendered(request, tmp_path_factory):
    """Every run once: itself, the parsed page, its source, the Markdown, and the folder."""
    run, folder = RUNS[request.param](), tmp_path_factory.mktemp('report')
    write_report(run, folder)
    source = (folder / 'index.html').read_text()
    return run, Page(source), source, (folder / 'report.md').read_text(), folder


def expected_cells(row):
    if row.status == 'failed':
        return [f'failed: {row.error}']
    spread = [f'{ms_text(row.ms_p20)}–{ms_text(row.ms_p80)}', ms_text(row.throughput)]
    ratios = [
        times_text(row.theory_flops), times_text(row.theory_minimal), times_text(row.measured_speedup),
        times_text(row.measured_speedup_direct), times_text(row.measured_speedup_any), percent_text(row.realised),
    ]  # fmt: skip
    if isinstance(row, LayerRow):  # no room for more beside the shape
        return [ms_text(row.ms_median), *ratios[:3], ratios[-1]]
    return [ms_text(row.ms_median), *spread, *ratios, f'{row.max_error:.0e}']


def test_every_row_is_there_with_its_numbers(rendered):
    run, page, _, markdown, _ = rendered
    shown = [row for table in page.tables for row in table[1:]]
    rows = [*run.rows, *run.layers]
    assert len(shown) == len(rows)
    for cells, row in zip(shown, rows):
        assert cells[0] == row.model
        assert row.engine + (' (Winograd)' if row.winograd else '') in cells
        assert cells[-len(expected_cells(row)) :] == expected_cells(row)
    assert len(re.findall(r'^\| `', markdown, re.MULTILINE)) == len(rows)


def test_tables_are_regular(rendered):
    run, page, source, markdown, _ = rendered
    for table in page.tables:
        for cells in table:
            spanned = 4 if 'shape' in table[0] else 9
            assert len(cells) + (spanned if cells[-1].startswith('failed: ') else 0) == len(table[0])
    bars = {len(re.findall(r'(?<!\\)\|', line)) for line in markdown.splitlines() if line.startswith('|')}
    assert len(bars) <= (2 if run.layers and run.rows else 1)
    for attrs in (attrs for tag, attrs in page.elements if tag == 'th'):
        assert attrs['scope'] in ('col', 'row')
    assert source.count('tabindex="0"') == len(page.tables), 'a box that scrolls is reached by the keyboard'


def test_the_page_needs_nothing_else(rendered):
    _, page, source, _, _ = rendered
    tags = {tag for tag, _ in page.elements}
    assert not tags & {'script', 'link', 'img', 'iframe', 'object', 'image', 'foreignObject'}
    for _, attrs in page.elements:
        assert not any(name.startswith('on') for name in attrs)
        assert 'src' not in attrs
        for name in ('href', 'xlink:href'):
            assert attrs.get(name, '#').startswith('#')
    assert '@import' not in source
    assert all(url.startswith('url(#') for url in re.findall(r'url\([^)]{0,9}', source))


def test_ids_are_unique_and_references_resolve(rendered):
    _, page, source, _, _ = rendered
    ids = [attrs['id'] for _, attrs in page.elements if 'id' in attrs]
    assert len(ids) == len(set(ids))
    wanted = set(re.findall(r'(?:href="#|url\(#)([^")]+)', source))
    wanted |= {attrs['aria-labelledby'] for _, attrs in page.elements if 'aria-labelledby' in attrs}
    assert wanted
    assert wanted <= set(ids)


def test_pictures_have_names_and_the_colour_of_the_page(rendered):
    _, page, source, _, _ = rendered
    pictures = [attrs for _, attrs in page.elements if attrs.get('role') == 'img']
    assert len(pictures) == source.count('<svg') >= 3
    assert all(attrs['aria-label'].strip() for attrs in pictures)
    assert '#000000' not in source, 'black would vanish on a dark page'
    for svg in re.findall(r'<svg.*?</svg>', source, re.DOTALL):
        assert 'currentColor' in svg
        assert '#ffffff' not in svg
        assert ' width=' not in svg[: svg.index('>')], 'the page gives the size'
        assert ' viewBox=' in svg[: svg.index('>')]


def test_markdown_has_its_pictures_beside_it(rendered):
    _, page, _, markdown, folder = rendered
    names = re.findall(r'^!\[.+\]\((\S+\.svg)\)$', markdown, re.MULTILINE)
    assert len(names) == sum(attrs.get('role') == 'img' for _, attrs in page.elements)
    assert {path.name for path in folder.iterdir()} == {'index.html', 'report.md', *names}
    for name in names:
        assert ET.parse(folder / name).getroot().get('width'), 'a picture alone has a size'


def test_the_same_run_gives_the_same_files(tmp_path):
    for folder in (tmp_path / 'a', tmp_path / 'b'):
        folder.mkdir()
        write_report(make_run(make_rows(), make_layers()), folder)
    a, b = ({path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in 'ab')
    assert len(a) > 6
    assert a == b


def test_order_of_the_sections(report):
    page, _, markdown = report(ragged())
    assert page.headings == [
        'HetConv: measured speed beside theory', 'Where and how it was measured', 'All rows',
        'Theory and measurement', 'Layer by layer', 'What the columns say', 'Accuracy',
        "The paper's figures, drawn from the code", 'What this does not say',
    ]  # fmt: skip
    assert re.findall(r'^#+ (.*)$', markdown, re.MULTILINE) == page.headings


def test_main_lines_head_the_page(report):
    run = ragged()
    page, _, markdown = report(run)
    head = ' '.join(page.text.split('Where and how')[0].split())
    lines = [' '.join(line.split()) for line in main_lines(run.rows)]
    assert len(lines) == 8
    assert all(line in head for line in lines)
    assert [line.replace('**', '')[2:] for line in markdown.splitlines() if line.startswith('- **hetconv')] == lines


def test_environment_and_settings_are_told(report):
    page, _, markdown = report(make_run(make_rows(), gpu=None, onnxruntime='1.2.3'))
    for text in (page.text, markdown):
        for words in ('2001-02-03', 'Made-up CPU 9000', 'avx2, fma', '1.2.3', 'turn_ms', '60.0', 'unknown'):
            assert words in text


def test_a_run_that_was_cut_short_says_so(report):
    page, _, markdown = report(make_run(make_rows(), complete=False))
    for text in (page.text, markdown):
        assert 'cut short' in text.split('All rows')[0]
    page, _, _ = report(make_run(make_rows()))
    assert 'cut short' not in page.text


def test_precision_has_a_column_only_where_it_differs(report):
    page, _, _ = report(make_run(make_rows()))
    assert 'precision' not in page.tables[0][0]
    page, _, _ = report(make_run(make_rows() + make_rows(precision='int8')))
    column = page.tables[0][0].index('precision')
    assert [row[column] for row in page.tables[0][1:]] == ['fp32'] * 8 + ['int8'] * 8


def test_accuracy(report):
    page, _, markdown = report(make_run(make_rows()))
    assert page.text.count('Not measured in this run') == markdown.count('Not measured in this run') == 1
    page, source, markdown = report(make_run(make_rows()), accuracy=[('hetconv_<b>_p4', '12 | 34 %')])
    assert 'Not measured in this run' not in page.text + markdown
    assert 'hetconv_<b>_p4' in page.text
    assert 'hetconv_<b>_p4' not in source
    assert r'- `hetconv_<b>_p4`: 12 \| 34 %' in markdown


def test_accuracy_is_read_from_what_the_comparison_wrote(tmp_path):
    result = dict(
        model='m', data='CIFAR', epochs=1, images=200, torch_correct=101, onnxruntime_correct=100, different=1
    )
    (tmp_path / 'a.json').write_text(json.dumps(result))
    model, words = read_accuracy(tmp_path / 'a.json')
    assert model == 'm'
    assert words == (
        'top-1 50.50% in PyTorch and 50.00% in ONNX Runtime on 200 images of CIFAR after 1 epoch; '
        '1 classified differently'
    )
    for text in ('{}', 'no', json.dumps({**result, 'images': 0})):
        (tmp_path / 'a.json').write_text(text)
        with pytest.raises(UserError, match='not the JSON of train_export_compare'):
            read_accuracy(tmp_path / 'a.json')


def test_markup_in_a_run_stays_text(report):
    page, source, markdown = report(RUNS['markup']())
    assert EVIL in page.text
    assert EVIL not in source
    assert EVIL not in markdown
    assert r'a\|b\`c\*d' in markdown


def test_failed_write_leaves_the_old_page(report, tmp_path, monkeypatch):
    _, old, _ = report(make_run(make_rows()))

    def full(*_):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr('os.replace', full)
    with pytest.raises(UserError, match='No space left'):
        write_report(ragged(), tmp_path)
    assert (tmp_path / 'index.html').read_text() == old
    assert not list(tmp_path.glob('.*'))


def test_missing_folder(tmp_path):
    with pytest.raises(UserError, match='cannot be written'):
        write_report(make_run(), tmp_path / 'none')


def test_nothing_to_report(tmp_path):
    result = CliRunner().invoke(cli.app, ['report', str(tmp_path / 'none'), '-o', str(tmp_path / 'page')])
    assert isinstance(result.exception, UserError)
    assert 'none: no such file or folder; `hetconv bench MODEL --json' in str(result.exception)
    assert not (tmp_path / 'page').exists()
