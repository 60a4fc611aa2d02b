"""Study files and the plans made of them: what is read, what is refused, what is shrunk."""
import pytest

from keepaug.study.plan import plan_runs
from keepaug.study.runs import Slot
from keepaug.study.scale import shrink_folder
from keepaug.study.study import read_study
from tests.sentences import says

PLAIN = '--model test_resnet --num-classes 3 --img-size 32 -b 8 --epochs 10 --warmup-epochs 5 -j 0'


def written(tmp_path, text):
    path = tmp_path / 'study.yaml'
    path.write_text(text)
    return str(path)


@pytest.fixture
def study(tmp_path):
    (tmp_path / 'base.yaml').write_text('epochs: 20\nsched: multistep\ndecay_milestones: [10, 15]\n')
    (tmp_path / 'deep').mkdir()
    path = tmp_path / 'deep' / 'table.yaml'
    path.write_text(f"""
title: A table
statistic: best
seeds: 2
configs: [base.yaml]
flags: {PLAIN.replace('--epochs 10 ', '')}
arms:
  none: {{paper: 90.5}}
  Cutout: {{flags: --cutout 8, row: Table 1}}
  KeepCutout, full: {{flags: --keep-cut --keep-size 8, paper: 92}}
compare: [[Cutout, none]]
""")
    return read_study(str(path))


def test_what_a_file_says(study, tmp_path):
    assert [arm.name for arm in study.arms] == ['none', 'Cutout', 'KeepCutout, full']
    assert [arm.paper for arm in study.arms] == [90.5, None, 92] and study.arms[2].folder == 'keepcutout-full'
    assert study.configs == (tmp_path / 'base.yaml',), 'recipes lie beside the file or above it'
    assert study.compare == (('Cutout', 'none'),) and (study.statistic, study.seeds) == ('best', 2)


@pytest.mark.parametrize('text, named', [
    ('title: x', ['arms']),
    ('arms: {a: {}, A: {}}', ['signs']),
    ('arms: {a: {}}\nstatistic: mean', ['mean', 'median10']),
    ('arms: {a: {}}\nseeds: 0', ['seeds', '0']),
    ('arms: {a: {}}\nsees: 3', ['sees', 'seeds']),
    ('arms: {a: {flag: x}}', ['flag', 'flags']),
    ('arms: {a: {paper: high}}', ['paper', 'high']),
    ('arms: {a: {flags: "--x \'"}}', ['flags']),
    ('arms: {a: {configs: [nowhere.yaml]}}', ['nowhere.yaml']),
    ('arms: {a: {}}\ncompare: [[a, b]]', ['compares', 'b']),
    ('arms: {a: 3}', ['a', '3']),
])
def test_what_is_refused(text, named, tmp_path):
    with pytest.raises(ValueError) as error:
        read_study(written(tmp_path, text))
    says(str(error.value).replace(str(tmp_path), ''), *named)


def test_plan_is_by_seed_and_checked(study, data, tmp_path):
    runs = plan_runs(study, tmp_path / 'out', 2, flags=['--data-dir', str(data)])
    assert [(run.seed, run.arm.name) for run in runs] == [
        (seed, arm.name) for seed in range(2) for arm in study.arms]
    command = runs[1].command(Slot.read('cuda:0,1'))
    assert command[1] == '2' and '--cutout' in command and command[command.index('--seed') + 1] == '0'
    assert {'--exact-resume', '--resume', 'auto'} <= set(command)
    with pytest.raises(ValueError, match='The arm none: --opt nosuch'):
        plan_runs(study, tmp_path / 'out', 2, flags=['--opt', 'nosuch'])
    with pytest.raises(ValueError, match='--arms nobody'):
        plan_runs(study, tmp_path / 'out', 2, arms=['nobody'])


def test_scale_shrinks_epochs_and_data_together(study, data, tmp_path):
    run = plan_runs(study, tmp_path / 'out', 1, scale=0.5, flags=['--data-dir', str(data)])[0]
    assert 'epochs=10 ' in run.identity['flags'] and 'decay_milestones=[5,8]' in run.identity['flags']
    assert run.identity['data'] == 'train:12/3 val:12/3'
    again = plan_runs(study, tmp_path / 'out', 1, scale=0.5, flags=['--data-dir', str(data)])[0]
    assert again.identity == run.identity


def test_a_class_keeps_one_image(data, tmp_path):
    shrink_folder(str(data), tmp_path / 'small', 0.01)
    assert [len(list(folder.iterdir())) for folder in sorted((tmp_path / 'small' / 'train').iterdir())] == [1, 1, 1]
    with pytest.raises(ValueError, match='--scale'):
        shrink_folder(str(data / 'train' / 'class0'), tmp_path / 'none', 0.5)


def test_runs_of_other_flags_are_not_mixed(study, data, tmp_path):
    flags = ['--data-dir', str(data)]
    run = plan_runs(study, tmp_path / 'out', 1, flags=flags)[0]
    run.folder.mkdir(parents=True)
    from keepaug.files.plain_json import write_json
    write_json(str(run.folder / 'outcome.json'), {'status': 'done', **run.identity})
    assert plan_runs(study, tmp_path / 'out', 1, flags=flags)[0].done
    for change, named in ((['--lr', '0.3'], 'lr'), (['--train-split', 'val'], 'train_split')):
        with pytest.raises(ValueError, match=f'other flags .*{named}'):
            plan_runs(study, tmp_path / 'out', 1, flags=[*flags, *change])


@pytest.mark.parametrize('text', ['cpu:0', 'gpu:0', 'cuda:a', 'cpu:1,'])
def test_no_slot(text):
    with pytest.raises(ValueError, match=f'--slots {text}'):
        Slot.read(text)
