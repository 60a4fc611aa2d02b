"""A study file for every table and figure of the papers: each reads, and each of its arms passes train.py's checks."""

import math
from pathlib import Path

import pytest
import timm

from keepaug.study import papers, plan
from keepaug.study.study import read_study

ROOT = Path(__file__).parents[1] / 'hparams' / 'papers'
FILES = sorted(ROOT.rglob('*.yaml'))

# Of CutMix, Tables 1, 2 and 10 are of other things than trainings of their own; its Figures 1 and 4 are pictures.
WANTED = {
    'keepaugment': ('KeepAugment', [*(f'Table {n}' for n in range(1, 9)), 'Figure 2', 'Figure 3']),
    'cutmix': ('CutMix', [*(f'Table {n}' for n in (*range(3, 10), 11, 12)), 'Figure 2', 'Figure 3', 'Figure 5']),
    'attentive-cutmix': ('Attentive CutMix', ['Table 1', 'Table 2', 'Table 3', 'Ablation over N']),
    'refined-augmentation': (
        'Data Augmentation Revisited',
        [*(f'Table {n}' for n in range(1, 6)), 'Figure 1', 'Figure 3', 'Figure 4'],
    ),
    'occlusions': ('Occlusions', [*(f'Table {n}' for n in range(1, 9)), 'Figure 5']),
}


def tables(paper):
    return [read_study(str(path)) for path in FILES if path.parent.name == paper]


@pytest.mark.parametrize('paper', WANTED)
def test_every_table_has_a_file(paper):
    name, wanted = WANTED[paper]
    studies = tables(paper)
    assert {study.paper for study in studies} == {name}
    assert {study.table for study in studies} == set(wanted)
    for study in studies:
        assert study.path.stem.startswith(study.table.lower().replace(' over n', '').replace(' ', '')), (
            'a file is called as its table'
        )


def test_names_differ():
    names = [read_study(str(path)).name for path in FILES]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize('path', FILES, ids=lambda path: f'{path.parent.name}/{path.stem}')
def test_every_arm_passes_the_checks(path, tmp_path, caplog, monkeypatch):
    seen = []
    monkeypatch.setattr(plan, 'describe_data', lambda args: seen.append(args) or '')
    study = read_study(str(path))
    runs = plan.plan_runs(study, tmp_path, 1)
    assert len(runs) == len(study.arms) == len(seen) and not caplog.records  # an unknown key would be warned of
    for args in seen:
        assert timm.is_model(args.model) and args.data is None, 'a word that belongs to no flag would name the data'
    flags = [run.identity['flags'] for run in runs]
    assert len(set(flags)) == len(flags), 'two arms would train the same'
    for arm in study.arms:
        assert arm.paper is None or math.isfinite(arm.paper) and 0 < arm.paper < 100


def test_page_is_current():
    assert papers.PAGE.read_text() == papers.page(papers.find_studies()), 'run python -m keepaug.study.papers'


def test_page_says_what_was_measured(tmp_path, monkeypatch):
    study = read_study(str(ROOT / 'cutmix' / 'table7.yaml'))
    monkeypatch.setattr(papers, 'ROOT', tmp_path)
    assert papers.measured(study) == 'nothing yet'
    folder = tmp_path / papers.RESULTS
    folder.mkdir(parents=True)
    (folder / 'cutmix-table7.csv').write_text(
        'arm,seed,status,last,best\nBaseline,0,done,95,96\nBaseline,1,done,95,97\n+ CutMix,0,failed,,\n'
    )
    assert papers.measured(study) == (
        'Baseline 96.50 ± 0.71 (n = 2) ([cutmix-table7.csv](../benchmarks/results/cutmix-table7.csv))'
    )
