"""Study files and the plans made of them: what is read, what is refused, what is shrunk."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from keepaug.options import create_parser
from keepaug.study.plan import plan_runs
from keepaug.study.runs import Slot
from keepaug.study.scale import DataShare, scaled_flags
from keepaug.study.study import read_study
from tests.sentences import says

ROOT = Path(__file__).parents[2]

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


TABLE = """
paper: Somebody
table: Table 2
title: Cuts
configs: [base.yaml]
columns:
  small: {flags: --lr 0.1}
  large: {configs: [large.yaml], flags: --lr 0.2}
arms:
  none: {columns: no, paper: 1}
  Cutout: {flags: --cutout 8, paper: [2, ~]}
  KeepCutout: {flags: --keep-cut, paper: [no, 4]}
  Mixup: {flags: --mixup 1}
"""


def table(tmp_path, compare=''):
    for name in ('base', 'large'):
        (tmp_path / f'{name}.yaml').write_text('')
    return read_study(written(tmp_path, f'{TABLE}{compare}'))


def test_rows_and_columns(tmp_path):
    study = table(tmp_path)
    assert [(arm.name, arm.paper) for arm in study.arms] == [
        ('none', 1),
        ('Cutout, small', 2),
        ('Cutout, large', None),
        ('KeepCutout, large', 4),
        ('Mixup, small', None),
        ('Mixup, large', None),
    ]
    paths = [str(tmp_path / name) for name in ('base.yaml', 'large.yaml')]
    assert study.words(study.arms[2]) == ['--config', paths[0], '--config', paths[1], '--lr', '0.2', '--cutout', '8']
    assert study.heading == 'Somebody, Table 2: Cuts' and study.name == f'{tmp_path.name}-study'


@pytest.mark.parametrize(
    'compare, pairs',
    [
        (
            '',
            [
                ('Cutout, small', 'none'),
                ('Cutout, large', 'none'),
                ('KeepCutout, large', 'none'),
                ('Mixup, small', 'none'),
                ('Mixup, large', 'none'),
            ],
        ),
        ('compare: [[Mixup, Cutout]]', [('Mixup, small', 'Cutout, small'), ('Mixup, large', 'Cutout, large')]),
        ('compare: [[KeepCutout, Cutout]]', [('KeepCutout, large', 'Cutout, large')]),
        ('compare: [[large, small]]', [('Cutout, large', 'Cutout, small'), ('Mixup, large', 'Mixup, small')]),
        ("compare: [['Mixup, large', 'Cutout, small']]", [('Mixup, large', 'Cutout, small')]),
    ],
)
def test_pairs_of_rows_and_columns(compare, pairs, tmp_path):
    assert list(table(tmp_path, compare).compare) == pairs


@pytest.mark.parametrize(
    'text, named',
    [
        ('columns: {x: }\narms: {a: {paper: 3}}', ['a', 'list of 1', 'column']),
        ('columns: {x: , y: }\narms: {a: {paper: [3]}}', ['a', 'list of 2', '[3]']),
        ('columns: {x: {paper: 3}}\narms: {a: }', ['paper', 'column x']),
        ('columns: {x: 3}\narms: {a: }', ['column x', '3']),
        ('columns: {x: }\narms: {a: {paper: [high]}}', ['a, x', 'high']),
        ('title: x', ['arms']),
        ('arms: {a: {}, A: {}}', ['punctuation']),
        ('arms: {a: {}}\nstatistic: mean', ['mean', 'median10']),
        ('arms: {a: {}}\nmetric: eval_topl', ['eval_topl', 'eval_top1']),
        ('arms: {a: {}}\nmetric: [eval_top1]', ['metric', 'eval_top1']),
        ('arms: [a, b]', ['arms:', 'a name, a colon']),
        ('arms: {a: {}}\nseeds: 0', ['seeds', '0']),
        ('arms: {a: {}}\nsees: 3', ['sees', 'seeds']),
        ('arms: {a: {flag: x}}', ['flag', 'flags']),
        ('arms: {a: {paper: high}}', ['paper', 'high']),
        ('arms: {a: {flags: "--x \'"}}', ['flags']),
        ('arms: {a: {configs: [nowhere.yaml]}}', ['nowhere.yaml']),
        ('arms: {a: {}}\ncompare: [[a, b]]', ['compares', 'b']),
        ('columns: {x: }\narms: {a: , b: }\ncompare: [[a, c]]', ['compares', 'c']),
        ('arms: {a: {}}\ncompare: [a]', ['compares', "'a'"]),
        ('arms: {a: 3}', ['a', '3']),
        ('arms: {a: {}}\ncolumns: [x]', ['columns', "['x']"]),
        ('arms: {a: {}}\ncompare: 5', ['compare', '5']),
        ('arms: {a: {}}\nseeds: true', ['seeds', 'True']),
        ('arms: {a: {}}\nimages_per_class: {train: 0}', ['images_per_class', '0']),
        ('arms: {a: {}}\nimages_per_class: 200', ['images_per_class', '200', 'split']),
    ],
)
def test_what_is_refused(text, named, tmp_path):
    with pytest.raises(ValueError) as error:
        read_study(written(tmp_path, text))
    says(str(error.value).replace(str(tmp_path), ''), *named)


def test_what_is_null_is_unset(tmp_path):
    read = read_study(written(tmp_path, 'title:\npaper:\ncompare:\narms: {a: {row: }, b: {}}'))
    assert (read.title, read.paper, read.arms[0].row, read.compare) == ('study', '', '', (('b', 'a'),))


def test_plan_is_by_seed_and_checked(study, data, tmp_path):
    runs = plan_runs(study, tmp_path / 'out', 2, flags=['--data-dir', str(data)])
    assert [(run.seed, run.arm.name) for run in runs] == [(seed, arm.name) for seed in range(2) for arm in study.arms]
    command = runs[1].command(Slot.read('cuda:0,1'))
    assert '--nproc_per_node=2' in command and '--cutout' in command and command[command.index('--seed') + 1] == '0'
    assert {'--exact-resume', '--resume', 'auto'} <= set(command)
    with pytest.raises(ValueError, match='The arm none: --opt nosuch'):
        plan_runs(study, tmp_path / 'out', 2, flags=['--opt', 'nosuch'])
    with pytest.raises(ValueError, match="--arms 'nobody'"):
        plan_runs(study, tmp_path / 'out', 2, arms=['nobody'])


def test_scale_shrinks_epochs_and_data_together(study, data, tmp_path):
    run = plan_runs(study, tmp_path / 'out', 1, scale=0.5, flags=['--data-dir', str(data)])[0]
    assert 'epochs=10 ' in run.identity['flags'] and 'decay_milestones=[5,8]' in run.identity['flags']
    assert run.identity['data'] == 'train:12/3 val:12/3'
    again = plan_runs(study, tmp_path / 'out', 1, scale=0.5, flags=['--data-dir', str(data)])[0]
    assert again.identity == run.identity


# Numbers whose help speaks of epochs, but which count something else, or are a share of them.
NO_EPOCHS = {
    *('epoch_repeats', 'aug_repeats', 'train_batches_per_epoch', 'train_size_schedule_spread', 'refine_lr'),
    *('grid_mask_ramp', 'feature_dropout_ramp', 'risk_samples', 'watch_samples'),
}


def test_scale_shrinks_whatever_counts_epochs():
    """Of all flags there are, so that a new one cannot be forgotten."""
    parser = create_parser()
    counting = {
        action.dest: action
        for action in parser._actions
        if action.type in (int, float) and 'epoch' in f'{action.dest} {action.help}' and action.dest not in NO_EPOCHS
    }
    assert {'epochs', 'stop_epoch', 'save_epochs', 'patience_epochs', 'val_interval', 'lr_stable_timescale'} <= {
        *counting
    }
    for name, action in counting.items():
        many = action.nargs is not None
        sched = {'decay_milestones': 'multistep', 'patience_epochs': 'plateau'}.get(name, 'cosine')
        words = [action.option_strings[0], *(['20', '30'] if many else ['20'])]
        args = parser.parse_args(['data', '--sched', sched, *words])
        scaled = parser.parse_args(['data', *scaled_flags(args, 0.25)])
        assert vars(scaled)[name] == ([5, 8] if many else 5), name


def test_what_counts_epochs_keeps_one():
    words = ['--val-interval', '4', '--stop-epoch', '6', '--save-epochs', '2', '3', '80', '--lr-stable-timescale', '5']
    args = create_parser().parse_args(['data', *words])
    scaled = create_parser().parse_args(['data', *scaled_flags(args, 0.05)])
    assert (scaled.val_interval, scaled.stop_epoch, scaled.save_epochs) == (1, 1, [1, 4])
    assert scaled.lr_stable_timescale == 0.25 and scaled.patience_epochs == args.patience_epochs


def test_a_class_keeps_one_image(data, tmp_path):
    DataShare(str(data), tmp_path / 'small', 0.01).make()
    assert [len(list(folder.iterdir())) for folder in sorted((tmp_path / 'small' / 'train').iterdir())] == [1, 1, 1]
    with pytest.raises(ValueError, match='--scale'):
        DataShare(str(data / 'train' / 'class0'), tmp_path / 'none', 0.5).make()


def test_so_many_images_of_each_class(study, data, tmp_path):
    """The same for every arm and seed, and a share of them with --scale."""
    study = replace(study, images_per_class={'train': 4})
    run = plan_runs(study, tmp_path / 'out', 1, flags=['--data-dir', str(data)])[0]
    assert run.identity['data'] == 'train:12/3 val:24/3' and not (tmp_path / 'out').exists()
    run.make_data()
    assert [len(list(folder.iterdir())) for folder in sorted(run.share.folder.glob('*/*'))] == [4, 4, 4, 8, 8, 8]
    assert str(run.share.folder) in run.words
    half = plan_runs(study, tmp_path / 'out', 1, scale=0.5, flags=['--data-dir', str(data)])[0]
    assert half.identity['data'] == 'train:6/3 val:12/3'


@pytest.mark.parametrize('split', ['valid', 'validation', 'val'])
def test_a_split_has_the_names_that_timm_knows_it_by(split, data, tmp_path):
    assert DataShare(str(data), tmp_path / 'share', per_class={split: 2}).describe() == 'train:24/3 val:6/3'


@pytest.mark.parametrize(
    'images, flags, named',
    [
        ({'train': 4}, ['--dataset', 'torch/cifar10', '--dataset-download'], ['--dataset torch/cifar10', '--data-dir']),
        ({'train': 4}, [], ['none is given', '--data-dir']),
        ({'train': 4, 'test': 2}, ['--data-dir', 'DATA'], ['test', 'DATA', 'train or val']),
        ({'val': 4, 'validation': 2}, ['--data-dir', 'DATA'], ['validation', 'DATA', 'twice']),
        ({'train': 4}, ['--data-dir', '/absent'], ['/absent', 'split folders']),
    ],
)
def test_images_that_cannot_be_chosen(images, flags, named, study, data, tmp_path):
    """Or all would be read, under a title that tells of few."""
    flags = [word.replace('DATA', str(data)) for word in flags]
    with pytest.raises(ValueError) as refused:
        plan_runs(replace(study, images_per_class=images), tmp_path / 'out', 1, flags=flags)
    says(str(refused.value).replace(str(data), 'DATA').replace(str(tmp_path), ''), 'images_per_class', *named)


def test_a_share_of_other_data_is_not_taken(data, tmp_path):
    DataShare(str(data), tmp_path / 'small', 0.5).make()
    DataShare(str(data), tmp_path / 'small', 0.5).make()
    (tmp_path / 'other').mkdir()
    with pytest.raises(ValueError, match='small holds images of .*, not of .*other'):
        DataShare(str(tmp_path / 'other'), tmp_path / 'small', 0.5).make()


def test_a_share_of_as_many_images_as_the_report_says(study, data, tmp_path):
    """A run that was stopped would go on with other images; told before anything is trained, and by each run."""
    flags = ['--data-dir', str(data)]
    plan_runs(replace(study, images_per_class={'train': 4}), tmp_path / 'out', 1, flags=flags)[0].make_data()
    fewer = replace(study, images_per_class={'train': 2})
    with pytest.raises(ValueError) as refused:
        plan_runs(fewer, tmp_path / 'out', 1, flags=flags, here=True)
    told = str(refused.value).replace(str(tmp_path), '')
    says(told, 'data-1', 'train:12/3 val:24/3', 'train:6/3 val:24/3', '--output')
    with pytest.raises(ValueError, match='data-1 holds train:12/3'):
        plan_runs(fewer, tmp_path / 'out', 1, flags=flags)[0].make_data()


def test_a_share_of_other_images_of_the_same_number(data, tmp_path):
    source = shutil.copytree(data, tmp_path / 'source')
    DataShare(str(source), tmp_path / 'share').make()
    DataShare(str(source), tmp_path / 'share').check()
    image = next((source / 'train' / 'class0').iterdir())
    image.rename(image.with_stem('other'))
    with pytest.raises(ValueError, match='differs in train/class0/'):
        DataShare(str(source), tmp_path / 'share').check()


def test_a_share_that_was_never_complete_is_made_anew(data, tmp_path):
    """Links to other images than those that are wanted now do not stay, nor do classes of another folder."""
    other = tmp_path / 'other'
    for split in ('train', 'val', 'test'):
        for name in ('class0', 'class9'):
            shutil.copytree(data / 'train' / 'class0', other / split / name)
    for source, per_class in ((other, {}), (data, {}), (data, {'train': 2})):
        share = DataShare(str(source), tmp_path / 'share', per_class=per_class)
        share.make()
        assert sorted(path.name for path in share.folder.glob('*/*')) == sorted(
            path.name for path in source.glob('*/*')
        )
        assert sorted(share.folder.glob('*/')) == [share.folder / path.name for path in sorted(source.glob('*/'))]
        assert {path.resolve().parents[2] for path in share.folder.glob('*/*/*')} == {source}
        (share.folder / '.complete').write_text('')
    assert len(list(share.folder.glob('train/*/*'))) == 6


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


STUDIES = sorted(path for path in (ROOT / 'hparams' / 'studies').glob('*.yaml') if not path.stem.startswith('base-'))


@pytest.mark.parametrize('path', STUDIES, ids=lambda path: path.stem)
def test_every_arm_of_our_own_studies_passes_the_checks(path, data, tmp_path):
    study = read_study(str(path))
    flags = [] if study.path.stem.startswith('digits') else ['--data-dir', str(data)]
    runs = plan_runs(study, tmp_path, 1, flags=flags)
    assert len(runs) == len(study.arms) == len({run.identity['flags'] for run in runs})


def test_an_arm_says_nothing_that_the_study_says(tmp_path):
    study = read_study(written(tmp_path, f'arms: {{a: {{flags: {PLAIN} --seed 3}}}}'))
    with pytest.raises(ValueError) as refused:
        plan_runs(study, tmp_path, 1)
    says(str(refused.value), '--seed', 'arm a')
