"""Writes docs/papers.md: every table and figure of the papers that is a study, and what was measured of it here.

python -m keepaug.study.papers
"""

import csv
from collections.abc import Sequence
from pathlib import Path

from keepaug.study.statistics import spread_of
from keepaug.study.study import Study, read_study

ROOT = Path(__file__).parents[2]
PAGE = ROOT / 'docs' / 'papers.md'
RESULTS = Path('benchmarks') / 'results'
HEAD = r"""# The papers' tables

Each table and figure is a study ([studies.md](studies.md)) that one command runs:

```sh
python -m keepaug.study hparams/papers/keepaugment/table1.yaml --slots cuda:0 cuda:1 -- \
    --data-dir DIR --dataset-download
```

`runs` is the number of trainings: arms times seeds. "Measured here" comes from the `results.csv` of a study, kept as
`benchmarks/results/NAME.csv`. `python -m keepaug.study.papers` writes this page.
"""


def find_studies() -> list[Study]:
    """The studies of all papers, tables before figures."""

    def place(path: Path) -> tuple:
        digits = ''.join(filter(str.isdecimal, path.stem.partition('-')[0]))
        return path.parent.name, not path.stem.startswith('table'), path.stem[:5], int(digits or 0), path.stem

    return [read_study(str(path)) for path in sorted((ROOT / 'hparams' / 'papers').rglob('*.yaml'), key=place)]


def page(studies: Sequence[Study]) -> str:
    """The whole page."""
    parts = [HEAD]
    for paper in dict.fromkeys(study.paper for study in studies):
        own = [study for study in studies if study.paper == paper]
        parts.append(f'## {paper}\n\n{_table(own)}\n')
    return '\n'.join(parts)


def measured(study: Study) -> str:
    """What the results that are kept of a study say: the mean of its statistic for each arm."""
    file = RESULTS / f'{study.name}.csv'
    if not (ROOT / file).is_file():
        return 'nothing yet'
    values: dict[str, list[float]] = {}
    with open(ROOT / file, newline='') as rows:
        for row in csv.DictReader(rows):
            if row['status'] == 'done':
                values.setdefault(row['arm'], []).append(float(row[study.statistic]))
    means = [f'{arm} {spread_of(found)}' for arm, found in values.items()]
    return f'{"; ".join(means)} ([{file.name}](../{file}))'


def _table(studies: Sequence[Study]) -> str:
    rows = [['table or figure', 'what runs', 'runs', 'deviates', 'remains', 'measured here'], ['---'] * 6]
    for study in studies:
        file = study.path.relative_to(ROOT)
        rows.append(
            [
                f'[{study.table}](../{file})',
                study.title,
                str(len(study.arms) * study.seeds),
                study.deviates or '-',
                study.remains or '-',
                measured(study),
            ]
        )
    return '\n'.join('| ' + ' | '.join(row) + ' |' for row in rows)


if __name__ == '__main__':
    PAGE.write_text(page(find_studies()), encoding='utf-8')
