"""A study file: which arms are trained, what the paper says of each, and which of them are compared."""

import difflib
import math
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from keepaug.options.config import find_config, read_config, shown
from keepaug.ranges import any_of

# Where our study files are, below hparams/.
STUDIES = ('papers/', 'studies/')
# What a table reports of a run's epochs, by the names that a file may use.
STATISTICS = ('last', 'best', 'median10')
# Columns of summary.csv that runs may be compared by, and whether lower is better.
METRICS = {
    **dict.fromkeys(('eval_loss', 'train_loss', 'risk_augmented', 'risk_clean'), True),
    **dict.fromkeys(('eval_top1', 'eval_top5', 'eval_map', 'eval_micro_f1', 'eval_macro_f1', 'eval_sample_f1'), False),
    'saliency_kept': False,
}
KEYS = {
    'title',
    'paper',
    'table',
    'statistic',
    'metric',
    'seeds',
    'configs',
    'flags',
    'columns',
    'arms',
    'compare',
    'images_per_class',
    'exact',
    'deviates',
    'remains',
}
ARM_KEYS = {'columns', 'configs', 'flags', 'paper', 'row'}
COLUMN_KEYS = {'configs', 'flags'}


@dataclass(frozen=True)
class Arm:
    """One arm.

    Attributes:
        name: As the paper calls it.
        configs: Recipe files, after the study's own.
        flags: Flags behind them.
        paper: The paper's number; None where it reports none.
        row: What else the paper says of it, in words.
    """

    name: str
    configs: tuple[Path, ...] = ()
    flags: tuple[str, ...] = ()
    paper: float | None = None
    row: str = ''

    @property
    def folder(self) -> str:
        """Its name as part of a folder's."""
        return re.sub(r'[^a-z0-9.]+', '-', self.name.lower()).strip('-')


@dataclass(frozen=True)
class Study:
    """What a study file says.

    Attributes:
        path: The file.
        title: What it measures, and where that stands.
        paper: Short name of the paper; empty for a study of our own.
        table: Its table or figure, such as 'Table 1'.
        arms: The arms, in the order of the table.
        compare: Pairs of arms whose difference is reported, the first minus the second.
        statistic: What the paper reports of a run's epochs: one of `STATISTICS`.
        metric: Column of `summary.csv` that is compared.
        seeds: Runs per arm.
        configs: Recipe files of all arms.
        flags: Flags of all arms.
        images_per_class: Images of each class that are read, by split; a split that is not named keeps all.
        exact: Whether runs are resumed exactly (`--exact-resume`); few optimizers and data sets cannot be.
        deviates: What differs from the paper, and why.
        remains: What of the table a training alone does not give.
    """

    path: Path
    title: str
    arms: tuple[Arm, ...]
    paper: str = ''
    table: str = ''
    compare: tuple[tuple[str, str], ...] = ()
    statistic: str = 'last'
    metric: str = 'eval_top1'
    seeds: int = 3
    configs: tuple[Path, ...] = ()
    flags: tuple[str, ...] = ()
    images_per_class: Mapping[str, int] = field(default_factory=dict)
    exact: bool = True
    deviates: str = ''
    remains: str = ''

    @property
    def name(self) -> str:
        """Unlike that of any other study: several papers have a Table 1, each in the folder of its paper."""
        return f'{self.path.absolute().parent.name}-{self.path.stem}' if self.paper else self.path.stem

    @property
    def decreasing(self) -> bool:
        """Whether a lower value of its metric is better."""
        return METRICS[self.metric]

    @property
    def heading(self) -> str:
        """Title that says where in a paper it stands."""
        return f'{self.paper}, {self.table}: {self.title}' if self.paper else self.title

    def words(self, arm: Arm) -> list[str]:
        """What an arm's runs have in common on train.py's command line, without data, device and seed."""
        configs = [word for path in (*self.configs, *arm.configs) for word in ('--config', str(path))]
        return [*configs, *self.flags, *arm.flags]


def read_study(path: str) -> Study:
    """Reads a study file.

    Raises:
        ValueError: It is missing, or says something that is not understood.
    """
    path = find_config(path, 'The study', STUDIES)
    content = read_config(path, 'The study')
    file = Path(path)
    _check_keys(path, content, KEYS)
    named = content.get('arms')
    if not isinstance(named, dict) or not named:
        problem = f'has arms: {shown(named)}' if named else 'has no arms'
        raise ValueError(f'The study {path} {problem}: write below arms: a name, a colon and its settings for each.')
    arms = tuple(_read_arms(file, content))
    names, folders = [arm.name for arm in arms], [arm.folder for arm in arms]
    for name, folder in zip(names, folders):
        if not folder or folders.count(folder) > 1:
            raise ValueError(
                f'The study {path} has two arms whose names differ only in punctuation, or one without letters: {name}.'
            )
    statistic, seeds = content.get('statistic', 'last'), content.get('seeds', 3)
    metric = content.get('metric', 'eval_top1')
    if not isinstance(metric, str) or metric not in METRICS:
        nearest = difflib.get_close_matches(str(metric)[:100], METRICS, n=2) or METRICS
        raise ValueError(
            f'The study {path} has metric {shown(metric)}, which no run reports: choose {any_of(nearest)}.'
        )
    if statistic not in STATISTICS:
        raise ValueError(f'The study {path} has statistic {statistic!r}: choose {any_of(STATISTICS)}.')
    if type(seeds) is not int or seeds < 1:
        raise ValueError(f'The study {path} has seeds {seeds!r}: write a whole number, at least 1.')
    return Study(
        file,
        str(content.get('title') or file.stem),
        arms,
        str(content.get('paper') or ''),
        str(content.get('table') or ''),
        _pairs(path, content, names),
        statistic,
        metric,
        seeds,
        _find_configs(file, content),
        _words(file, content),
        _read_images(path, content),
        bool(content.get('exact', True)),
        str(content.get('deviates') or '').strip(),
        str(content.get('remains') or '').strip(),
    )


def _read_arms(file: Path, content: Mapping[str, Any]) -> Iterator[Arm]:
    """The arms in their order; a row of a table with columns is an arm in each of them."""
    columns = content.get('columns') or {}
    if not isinstance(columns, dict):
        raise ValueError(f'{file} has columns: {columns!r}: write a name and its settings for each.')
    columns = {str(name): settings or {} for name, settings in columns.items()}
    for column, settings in columns.items():
        _check_settings(file, f'the column {column}', settings, COLUMN_KEYS)
    for name, settings in content['arms'].items():
        name, settings = str(name), settings or {}
        _check_settings(file, f'the arm {name}', settings, ARM_KEYS)
        numbers = settings.get('paper')
        if not columns or settings.get('columns') is False:
            yield _read_arm(file, name, settings, {}, numbers)
            continue
        numbers = [None] * len(columns) if numbers is None else numbers
        if not isinstance(numbers, list) or len(numbers) != len(columns):
            raise ValueError(
                f'The arm {name} of {file} has paper: {numbers!r}: write a list of {len(columns)}, one entry per '
                'column: a number, ~ if the paper has none, no if there is no such arm.'
            )
        for (column, own), number in zip(columns.items(), numbers):
            if number is not False:
                yield _read_arm(file, f'{name}, {column}', settings, own, number)


def _read_arm(
    file: Path, name: str, settings: Mapping[str, Any], column: Mapping[str, Any], paper: float | None
) -> Arm:
    if paper is not None and (
        isinstance(paper, bool) or not isinstance(paper, (int, float)) or not math.isfinite(paper)
    ):
        raise ValueError(f"The arm {name} of {file} has paper: {paper!r}: write the paper's number.")
    configs = (*_find_configs(file, column), *_find_configs(file, settings))
    return Arm(name, configs, (*_words(file, column), *_words(file, settings)), paper, str(settings.get('row') or ''))


def _read_images(path: str, content: Mapping[str, Any]) -> dict[str, int]:
    images = content.get('images_per_class') or {}
    if not isinstance(images, dict) or not all(type(count) is int and count > 0 for count in images.values()):
        raise ValueError(
            f'The study {path} has images_per_class: {images!r}: write a whole number for each split, at least 1.'
        )
    return {str(split): count for split, count in images.items()}


def _pairs(path: str, content: Mapping[str, Any], names: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """The arms that are compared: two of them, two rows or columns throughout the table, or one with a single arm."""
    rows, columns = list(map(str, content['arms'])), list(map(str, content.get('columns') or ()))

    def find(name: str) -> dict[str, str]:
        """Arms of a name, by what they share with those of another."""
        if name in names:
            return {'': name}
        cells = [(column, f'{name}, {column}') for column in columns] + [(row, f'{row}, {name}') for row in rows]
        return {shared: arm for shared, arm in cells if arm in names}

    compared = content.get('compare')
    if not isinstance(compared, (list, type(None))):
        raise ValueError(f'The study {path} has compare: {compared!r}: write a list of pairs of its arms.')
    found = []
    for pair in [[row, rows[0]] for row in rows[1:]] if compared is None else compared:
        pairs = []
        if isinstance(pair, list) and len(pair) == 2:
            first, second = (find(str(name)) for name in pair)
            pairs = [
                (arm, second[shared if shared in second else ''])
                for shared, arm in first.items()
                if shared in second or '' in second
            ]
        if not pairs and compared is not None:
            raise ValueError(f'The study {path} compares {pair!r}: write two of its arms, [{names[-1]}, {names[0]}].')
        found += pairs
    return tuple(found)


def _check_settings(file: Path, owner: str, settings: Any, known: set[str]) -> None:
    if not isinstance(settings, dict):
        keys = ', '.join(f'{key}:' for key in sorted(known))
        raise ValueError(f'{file} has {settings!r} for {owner}: write {keys} below its name.')
    _check_keys(str(file), settings, known, f' for {owner}')


def _check_keys(path: str, content: Mapping[str, Any], known: set[str], owner: str = '') -> None:
    strange = [str(key) for key in content if key not in known]
    if strange:
        nearest = difflib.get_close_matches(strange[0][:100], known, n=1)
        advice = f'write {nearest[0]}' if nearest else f'choose {any_of(sorted(known))}'
        raise ValueError(f'The study {path} has the unknown key {strange[0][:100]}{owner}: {advice}.')


def _words(file: Path, content: Mapping[str, Any]) -> tuple[str, ...]:
    flags = content.get('flags') or ''
    try:
        return tuple(shlex.split(flags))
    except (AttributeError, ValueError) as error:
        raise ValueError(f'The study {file} has flags {flags!r}: write them as on a command line.') from error


def _find_configs(file: Path, content: Mapping[str, Any]) -> tuple[Path, ...]:
    """Recipe files, each looked for beside the study file and in the folders above it."""
    names = content.get('configs') or []
    if not isinstance(names, Sequence) or isinstance(names, str):
        raise ValueError(f'The study {file} has configs {names!r}: write a list of recipe files.')
    found = []
    for name in map(str, names):
        places = [folder / name for folder in file.absolute().parents]
        place = next((place for place in places if place.is_file()), None)
        if place is None:
            raise ValueError(
                f'The study {file} names the recipe {name}, which does not exist: put it beside the study or in a '
                'folder above it.'
            )
        found.append(place)
    return tuple(found)
