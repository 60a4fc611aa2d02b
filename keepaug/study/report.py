"""The report of a study: `results.csv`, `table.md`, `table.png` and one self-contained `report.html`."""

import base64
import html
import io
import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path

import matplotlib

matplotlib.use('Agg')
from matplotlib import pyplot  # noqa: E402  the backend is chosen before
from matplotlib.lines import Line2D  # noqa: E402

from keepaug.files.drafts import whole_file  # noqa: E402
from keepaug.pictures.legend import draw_legend  # noqa: E402
from keepaug.study.clock import PROCESSOR, WALL  # noqa: E402
from keepaug.study.results import Results, collect, write_rows  # noqa: E402
from keepaug.study.runs import StudyRun  # noqa: E402
from keepaug.study.study import Study  # noqa: E402

LINES = ('-', '--', ':', '-.')  # where the ten colours are used up
LEGEND_COLUMNS = 5
# What a study's time is, by its clock.
TIMES = {
    PROCESSOR: 'Time and hours are those that processors worked for a run, whatever else the machine did.',
    WALL: 'Time and hours are those that passed, which on a machine that others use tell of these too.',
}
STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222; }
table { border-collapse: collapse; display: block; overflow-x: auto; }
th, td { padding: .3rem .8rem; border-bottom: 1px solid #ddd; text-align: right; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
img { max-width: 100%; height: auto; }
pre { background: #f5f5f5; padding: .8rem; overflow-x: auto; }
"""


def write_report(
    study: Study, runs: Sequence[StudyRun], output: Path, title: str, machine: str, forecast: str = ''
) -> Results:
    """Writes everything anew from what the runs have left.

    Args:
        study: The study.
        runs: Its runs, done or not.
        output: Folder to write to.
        title: Title, which says where the study is a scaled one.
        machine: What it is measured on.
        forecast: How long it takes at full scale.
    """
    results = collect(study, runs)
    write_rows(output / 'results.csv', results.rows)
    said = notes(results, machine) + (f'\n\n{forecast}' if forecast else '')
    _write(output / 'table.md', f'# {title}\n\n{table_text(results)}\n\n{said}\n')
    pictures = {'table': draw_table(results), 'curves': draw_curves(study, runs)}
    with whole_file(output / 'table.png') as draft:
        Path(draft).write_bytes(pictures['table'])
    _write(output / 'report.html', page(results, runs, pictures, output, title, said))
    return results


def table_rows(results: Results) -> list[list[str]]:
    """The table, its head first."""
    statistic = results.study.statistic
    rows = [['arm', 'paper', f'ours, {statistic}', 'best', 'last', f'at equal {results.clock} time', 'hours']]
    for line in results.lines:
        spread = line.spreads
        failed = f', {line.failed} failed' if line.failed else ''
        rows.append(
            [
                line.name,
                _number(line.paper),
                f'{spread[statistic]}{failed}' if spread else failed.strip(', ') or '-',
                *(f'{spread[name].mean:.2f}' if spread else '-' for name in ('best', 'last')),
                f'{line.at_equal_time.mean:.2f}' if line.at_equal_time else '-',
                _number(line.hours),
            ]
        )
    return rows


def difference_rows(results: Results) -> list[list[str]]:
    """The differences, their head first."""
    rows = [
        [
            'difference',
            'paper',
            'ours at equal epochs',
            f'ours at equal {results.clock} time',
            'smallest that n can show',
        ]
    ]
    for pair in results.comparisons:
        shown = pair.epochs.smallest if pair.epochs and pair.epochs.n > 1 else None
        rows.append(
            [
                f'{pair.first} - {pair.second}',
                '-' if pair.paper is None else f'{pair.paper:+.2f}',
                str(pair.epochs or '-'),
                str(pair.time or '-'),
                _number(shown),
            ]
        )
    return rows


def table_text(results: Results) -> str:
    """Both tables in Markdown."""
    return '\n\n'.join(map(_markdown, (table_rows(results), difference_rows(results))))


def notes(results: Results, machine: str) -> str:
    """What the numbers are, in sentences."""
    study = results.study
    lines = [
        f'Mean ± standard deviation over seeds of {study.metric}: the {study.statistic} of each run. Differences are '
        "paired by seed, with 95% intervals of Student's t. A single seed has no interval and shows nothing.",
        f'At equal {results.clock} time: the last value that a run reached within the time of the cheapest arm with '
        f'the same seed. Its schedule has not ended at that point. {TIMES[results.clock]}',
        f'Machine: {machine}.',
    ]
    versions = sorted({row['versions'] for row in results.rows if row.get('versions')})
    lines += [f'Versions: {"; ".join(versions)}.'] if versions else []
    rows = [f'{arm.name}: {arm.row}' for arm in study.arms if arm.row]
    lines += [f'In the paper: {"; ".join(rows)}.'] if rows else []
    lines += [f'Deviates from the paper: {study.deviates}'] if study.deviates else []
    lines += [f'Not given by training alone: {study.remains}'] if study.remains else []
    for row in results.rows:
        if row['reason']:
            failed = ', failed' if row['status'] == 'failed' else ''
            lines.append(f'{row["arm"]}, seed {row["seed"]}{failed}: {row["reason"]}')
    return '\n\n'.join(lines)


def draw_table(results: Results) -> bytes:
    """Our means with their deviations beside the paper's numbers, as a PNG."""
    lines = [line for line in results.lines if line.spreads or line.paper is not None]
    figure, axes = pyplot.subplots(figsize=(8, 1 + 0.45 * max(1, len(lines))), layout='constrained')
    ours = [
        (place, line.spreads[results.study.statistic]) for place, line in enumerate(reversed(lines)) if line.spreads
    ]
    papers = [(place, line.paper) for place, line in enumerate(reversed(lines)) if line.paper is not None]
    if ours:
        places, spreads = zip(*ours)
        means, deviations = zip(*((spread.mean, spread.deviation) for spread in spreads))
        # A single run has no deviation (nan), and no bar.
        axes.errorbar(means, places, xerr=deviations, fmt='o', color='C0', capsize=3, label='ours')
    if papers:
        places, numbers = zip(*papers)
        axes.plot(numbers, places, marker='|', markersize=14, linestyle='', color='0.4', label='paper')
    axes.set_yticks(range(len(lines)), [line.name for line in reversed(lines)], parse_math=False)
    axes.set_xlabel(
        f'{results.study.metric}: {results.study.statistic} of each run, mean and standard deviation over seeds'
    )
    if ours and papers:
        axes.legend()
    return _png(figure)


def draw_curves(study: Study, runs: Sequence[StudyRun]) -> bytes:
    """Training and validation loss and the metric over epochs, one colour and style per arm, as a PNG."""
    columns = [study.metric, 'eval_loss', 'train_loss']
    height = 4 + 0.25 * (len(study.arms) // LEGEND_COLUMNS + 1)
    figure, panels = pyplot.subplots(1, len(columns), figsize=(5 * len(columns), height), layout='constrained')
    drawn: dict[int, Line2D] = {}
    for panel, column in zip(panels, columns):
        for number, arm in enumerate(study.arms):
            style = dict(color=f'C{number % 10}', linestyle=LINES[number // 10 % len(LINES)])
            for run in runs:
                curve = run.curve(column) if run.arm == arm else []
                if curve:
                    (line,) = panel.plot(*zip(*curve), **style, linewidth=1, alpha=0.7, label=arm.name)
                    drawn.setdefault(number, line)
        panel.set_title(column)
        panel.set_xlabel('epoch')
    if drawn:
        handles = [drawn[number] for number in sorted(drawn)]
        draw_legend(figure, handles, fontsize='small', loc='outside lower center', ncols=LEGEND_COLUMNS)
    return _png(figure)


def page(
    results: Results,
    runs: Sequence[StudyRun],
    pictures: dict[str, bytes],
    output: Path,
    title: str,
    said: str,
) -> str:
    """The whole report as one page that needs no other file."""
    parts = [f'<h1>{html.escape(title)}</h1>', _html_table(table_rows(results)), _picture(pictures['table'], 'Arms')]
    parts += ['<h2>Differences</h2>', _html_table(difference_rows(results))]
    parts += [f'<p>{html.escape(line)}</p>' for line in said.split('\n\n')]
    parts += ['<h2>Curves</h2>', _picture(pictures['curves'], 'Curves of every run')]
    sheets = [(arm.name, output / 'sheets' / f'{arm.folder}.png') for arm in results.study.arms]
    sheets = [(name, sheet) for name, sheet in sheets if sheet.exists()]
    if sheets:
        parts.append('<h2>What each arm does to an image</h2>')
        parts += [f'<h3>{html.escape(name)}</h3>{_picture(sheet.read_bytes(), name)}' for name, sheet in sheets]
    first = {run.arm.name: run for run in reversed(runs)}
    commands = '\n'.join(f'# {name}\n{shlex.join(first[name].command())}' for name in first)
    parts += ['<h2>Commands</h2>', f'<pre>{html.escape(commands)}</pre>']
    body = '\n'.join(parts)
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><meta name="viewport" '
        f'content="width=device-width"><title>{html.escape(title)}</title><style>{STYLE}</style></head>\n'
        f'<body>\n{body}\n</body></html>\n'
    )


def _write(path: Path, text: str) -> None:
    with whole_file(path) as draft:
        Path(draft).write_text(text, encoding='utf-8')


def _number(value: float | None) -> str:
    return '-' if value is None or value != value else f'{value:.2f}'


def _markdown(rows: Iterable[Sequence[str]]) -> str:
    head, *body = [[cell.replace('|', '\\|') for cell in row] for row in rows]
    return '\n'.join('| ' + ' | '.join(row) + ' |' for row in [head, ['---'] * len(head), *body])


def _html_table(rows: Sequence[Sequence[str]]) -> str:
    lines = [
        '<tr>' + ''.join(f'<{tag}>{html.escape(cell)}</{tag}>' for cell in row) + '</tr>'
        for row, tag in zip(rows, ['th'] + ['td'] * len(rows))
    ]
    return f'<table>{"".join(lines)}</table>'


def _picture(png: bytes, name: str) -> str:
    return f'<img alt="{html.escape(name)}" src="data:image/png;base64,{base64.b64encode(png).decode()}">'


def _png(figure: pyplot.Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=120)
    pyplot.close(figure)
    return buffer.getvalue()
