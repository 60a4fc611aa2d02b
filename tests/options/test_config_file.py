"""Defaults from YAML, and the text of args.yaml."""

import argparse
from pathlib import Path

import pytest
import yaml

from keepaug.options import check_stock, create_parser, create_train_parser, parse_args, prepare

# A few lines that stand for billions of values, in lists and in mappings that take in one another.
LAUGHS = 'a0: &a0 [1, 1]\n' + ''.join(f'a{n + 1}: &a{n + 1} [*a{n}, *a{n}]\n' for n in range(40))
MERGED = 'a0: &a0 {k: 1}\n' + ''.join(f'a{n + 1}: &a{n + 1} {{<<: [*a{n}, *a{n}]}}\n' for n in range(40))


@pytest.fixture
def parse(tmp_path):
    """Parses `argv` with a YAML file of the given text."""
    path = tmp_path / 'recipe.yaml'

    def run(text, *argv, parser=None):
        path.write_text(text)
        return parse_args(parser or create_parser(), ['-c', str(path), *argv])

    return run


def test_precedence(parse):
    args, text = parse('epochs: 7\nlr: 0.5\ndata: /yaml\namp: true', '--lr', '0.25')
    assert (args.epochs, args.lr, args.data, args.amp, args.momentum) == (7, 0.25, '/yaml', True, 0.9)
    assert not hasattr(args, 'config') and 'config' not in text
    assert parse('data: /yaml', '/line')[0].data == '/line'


@pytest.fixture
def parse_files(tmp_path):
    """Parses `argv` behind several YAML files of the given texts, one `-c` each."""

    def run(texts, *argv):
        paths = [tmp_path / f'{index}.yaml' for index in range(len(texts))]
        for path, text in zip(paths, texts):
            path.write_text(text)
        return parse_args(create_parser(), [word for path in paths for word in ('-c', str(path))] + list(argv))

    return run


def test_a_later_file_wins_over_an_earlier_one_and_the_command_line_over_both(parse_files):
    base = 'epochs: 7\nlr: 0.5\nmomentum: 0.8\nstray: 1\nmodel_kwargs: {a: 1, b: 2}\ndecay_milestones: [3, 5]'
    delta = 'lr: 0.25\nstray: 2\nmodel_kwargs: {a: 3}\ndecay_milestones: [4]'
    args, text = parse_files([base, delta, 'momentum: null'])
    assert (args.epochs, args.lr, args.momentum, args.stray) == (7, 0.25, 0.9, 2)
    assert args.model_kwargs == {'a': 3} and args.decay_milestones == [4]  # the value as a whole
    assert not hasattr(args, 'config') and yaml.safe_load(text)['lr'] == 0.25
    assert parse_files([base, 'lr: 0.25'], '--lr', '0.125', '/line')[0].lr == 0.125
    assert parse_files(['lr: 0.25', base])[0].lr == 0.5


def test_one_config_takes_one_file_and_leaves_the_data_path_alone(tmp_path):
    first, second = tmp_path / 'a.yaml', tmp_path / 'b.yaml'
    first.write_text('epochs: 7')
    second.write_text('lr: 0.5')
    for line in ('-c {} -c {} /data', '/data --config {} --conf={}', '-c {} /data -c {}'):
        args, _ = parse_args(create_parser(), line.format(first, second).split())
        assert (args.epochs, args.lr, args.data) == (7, 0.5, '/data')
    assert parse_args(create_parser(), ['-c', '', '/data'])[0].data == '/data'


def test_the_file_at_fault_is_named(parse_files, capsys, caplog):
    with pytest.raises(SystemExit):
        parse_files(['lr: 0.5', 'lr: fast'])
    assert '1.yaml sets lr to ' in capsys.readouterr().err
    parse_files(['stray: 1', 'epochs: 7'])
    assert ['0.yaml: no argument is called stray' in message for message in caplog.messages] == [True]


def test_one_file_does_not_leak_into_the_next_parse(parse):
    parser = create_parser()
    parse('epochs: 7\nstray: 1', parser=parser)
    args, _ = parse_args(parser, [])
    assert args.epochs == 300 and not hasattr(args, 'stray')


def test_the_file_may_stand_anywhere(tmp_path):
    path = tmp_path / 'a.yaml'
    path.write_text('epochs: 7')
    for line in (f'/data --config {path}', f'/data --conf={path}', f'--keep-cut -c {path} /data'):
        args, _ = parse_args(create_parser(), line.split())
        assert (args.epochs, args.data) == (7, '/data')
    assert parse_args(create_parser(), ['--', '-c'])[0].data == '-c'


@pytest.mark.parametrize(
    'text, name, value',
    [
        ('lr: 1e-3', 'lr', 0.001),
        ('lr: 1', 'lr', 1),
        ('epochs: "5"', 'epochs', 5),
        ('warmup_epochs: 2', 'warmup_epochs', 2),
        ('opt_betas: [0.9, 1e-1]', 'opt_betas', [0.9, 0.1]),
        ('input_size: [3, "32", 32]', 'input_size', [3, 32, 32]),
        ('model_kwargs: {img_size: 32}', 'model_kwargs', {'img_size': 32}),
        ('model: null', 'model', 'resnet50'),
        ('scale: null', 'scale', [0.08, 1.0]),
        ('amp: null', 'amp', False),
        ('wandb_tags: []', 'wandb_tags', []),
        ('torchcompile: true', 'torchcompile', 'inductor'),
        ('experiment: 5', 'experiment', '5'),
        ('aa: off', 'aa', ''),
        ('wandb_tags: [1, b]', 'wandb_tags', ['1', 'b']),
        ('model_kwargs: {}', 'model_kwargs', {}),
        ('base: &b {k: 1}\nmodel_kwargs: {<<: *b, c: 2}', 'model_kwargs', {'k': 1, 'c': 2}),
        ('keep_tau: none', 'keep_tau', None),
        ('keep_tau: null', 'keep_tau', None),
        ('keep_tau: 0.25', 'keep_tau', 0.25),
        ('keep_cut: true', 'keep_cut', 'cutout'),
        ('keep_cut: false', 'keep_cut', None),
        ('keep_cut: erase', 'keep_cut', 'erase'),
        ('cutout: true', 'cutout', 0),
        ('cutout: 16', 'cutout', 16),
    ],
)
def test_values(parse, text, name, value):
    found = getattr(parse(text)[0], name)
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize(
    'text, named',
    [
        ('kd_distill_type: logits', ('kd_distill_type', "'logits'", 'logit or feature or token')),
        ('keep_cut: erasse', ('keep_cut', "'erasse'", 'cutout or erase')),
        ('lr: fast', ('lr', "'fast'", 'write a number')),
        ('epochs: 1e2', ('epochs', "'1e2'", 'write a whole number')),
        ('epochs: true', ('epochs', 'True', 'write a whole number')),
        ('lr: [0.1]', ('lr', '[0.1]', 'write a number')),
        ('keep_tau: much', ('keep_tau', "'much'", 'write a number')),
        ('opt_betas: 0.9', ('opt_betas', '0.9', 'write a list')),
        ('opt_betas: [0.9, much]', ('opt_betas', 'much', 'write a number')),
        ('input_size: [3, 32]', ('input_size', '[3, 32]', 'write a list of 3 values')),
        ('amp: 1', ('amp', '1', 'write true or false')),
        ('amp: "yes"', ('amp', "'yes'", 'write true or false')),
        ('model_kwargs: [a]', ('model_kwargs', "['a']", 'write a mapping')),
        ('model: [resnet18]', ('model', "['resnet18']", 'write text')),
        ('experiment: 2020-01-01', ('experiment', 'datetime', 'write text')),
        ('warmup_epochs: 2.5', ('warmup_epochs', '2.5', 'write a whole number')),
        ('epochs: 100.0', ('epochs', '100.0', 'write a whole number')),
        ('lr: 1' + 400 * '0', ('lr', 'write a number')),
        ('lr: 1' + 5000 * '0', ('recipe.yaml holds a value that cannot be',)),
        ('epochs: .nan', ('epochs', 'nan', 'write a whole number')),
        ('model: 1.5', ('model', '1.5', 'write text')),
        ('model: true', ('model', 'True', 'write text')),
        ('wandb_tags: [1.5]', ('wandb_tags', 'write text')),
        ('opt_betas: []', ('opt_betas', 'at least one value')),
        ('opt_betas: [[0.9], 0.1]', ('opt_betas', 'write a number')),
        ('model_kwargs: {1: 2}', ('model_kwargs', 'write a mapping')),
        ('model_kwargs: {a: 2020-01-01}', ('model_kwargs', 'write a mapping')),
        ('lr: 2020-13-01', ('recipe.yaml holds a value that cannot be', 'month')),
        ('lr: ' + 5000 * '[', ('recipe.yaml is nested more than',)),
        ('lr: ' + 50 * '[' + 50 * ']', ('recipe.yaml is nested more than',)),
        ('a: 1\n' * 60_000, ('recipe.yaml is larger than',)),
        (LAUGHS, ('recipe.yaml holds more than',)),
        (MERGED, ('recipe.yaml holds more than',)),
        ('a: &a [*a]', ('recipe.yaml holds more than', 'within itself')),
        ('keep-cut: erase', ('keep-cut', 'write keep_cut')),
        ('__dict__: {a: 1}', ('no argument is called __dict__',)),
        ('taken_over: 5', ('no argument is called taken_over',)),
        ('- a\n- b', ('holds a list', 'key: value')),
        ('just words', ('holds a str', 'key: value')),
        ('a: [1', ('is not YAML (line', 'key: value')),
        ('a:\n\tb: 1', ('is not YAML (line', 'by spaces')),
        ('', ('is empty', 'key: value')),
        ('# nothing yet', ('is empty', 'key: value')),
        ('1: 2', ('the key 1', 'name of an argument')),
    ],
)
def test_refused_values(parse, capsys, text, named):
    with pytest.raises(SystemExit) as refused:
        parse(text)
    error = capsys.readouterr().err.splitlines()[-1]
    assert refused.value.code == 2 and error.endswith('.') and len(error) < 500
    for part in ('error: --config', 'recipe.yaml', *named):
        assert part in error


def test_refused_files(tmp_path, capsys):
    (tmp_path / 'bytes.yaml').write_bytes(b'\xff\xfe\x00')
    for name, reason in (('missing.yaml', 'No such file'), ('.', 'Is a directory'), ('bytes.yaml', 'UTF-8')):
        with pytest.raises(SystemExit) as refused:
            parse_args(create_parser(), ['-c', str(tmp_path / name)])
        error = capsys.readouterr().err.splitlines()[-1]
        assert refused.value.code == 2 and str(tmp_path) in error and reason in error and error.endswith('.')


def test_unknown_keys_are_named_and_kept(parse, caplog):
    args, text = parse('batch-size: 4\nzzz: {a: 1}')
    assert getattr(args, 'batch-size') == 4 and args.zzz == {'a': 1} and args.batch_size == 128
    assert yaml.safe_load(text)['zzz'] == {'a': 1}
    assert [record.name for record in caplog.records] == ['train', 'train']
    assert 'batch-size, the nearest one is batch_size;' in caplog.messages[0] and 'zzz;' in caplog.messages[1]


def test_unknown_keys_do_not_pass_a_check(parse, capsys, caplog):
    """A run takes them, as stock's does; what asks whether all is well is told that it is not."""
    for typed, text in ((['--check'], 'batch-size: 4'), ([], 'check: true\nbatch-size: 4')):
        with pytest.raises(SystemExit) as refused:
            parse(text, *typed)
        said = capsys.readouterr().err.splitlines()[-1]
        assert refused.value.code == 2 and 'no argument is called batch-size, the nearest one is batch_size' in said
    assert not caplog.records


@pytest.mark.parametrize('run', ['exact', 'plain'])
def test_every_key_of_version_0_1_is_known(run, tmp_path):
    path = Path(__file__).parents[1] / 'fixtures' / 'v0_1_0' / run / 'args.yaml'
    args, text = parse_args(create_parser(), ['-c', str(path), '--check'])
    (tmp_path / 'args.yaml').write_text(text)
    again, same = parse_args(create_parser(), ['-c', str(tmp_path / 'args.yaml'), '--check'])
    assert again == args and same == text


def stock_text(argv):
    """What stock writes: the whole namespace of its own parser."""
    return yaml.safe_dump(vars(create_train_parser().parse_args(argv)), default_flow_style=False)


@pytest.mark.parametrize(
    'argv',
    [
        [],
        ['/data', '--amp', '--lr', '0.1', '--j'],
        ['--model-kwargs', 'a=1', 'b=(1, 2)', '--mean', '0', '.5', '1'],
    ],
)
def test_text_without_our_flags_is_stocks(argv):
    assert parse_args(create_parser(), argv)[1] == stock_text(argv)
    assert parse_args(create_train_parser(), argv)[1] == stock_text(argv)


def test_text_holds_what_was_chosen_of_ours():
    args, text = parse_args(create_parser(), ['--keep-cut', '--keep-tau', 'none', '--keep-low-scale', '0.5', '--check'])
    assert args.keep_low_scale == 0.5 and args.check
    defaults = vars(create_parser().parse_args([]))
    del defaults['check']
    assert yaml.safe_load(text) == {**defaults, 'keep_cut': 'cutout', 'keep_tau': None}


def test_a_run_can_be_repeated_from_its_text(parse, caplog):
    first, text = parse_args(create_parser(), '/data --keep-cut erase --keep-tau none --mean 0 1'.split())
    second, again = parse(text)
    assert (first.typed, second.typed) == ({'keep_cut', 'keep_tau', 'mean'}, set())
    first.typed = second.typed
    assert second == first and again == text and not caplog.records


def test_a_bare_parser_works_too():
    parser = argparse.ArgumentParser()
    parser.add_argument('--lr', type=float, default='0.1')
    assert parse_args(parser, []) == (argparse.Namespace(lr=0.1, typed=frozenset()), 'lr: 0.1\n')


@pytest.mark.parametrize(
    'text, named',
    [
        ('model: 18', '--model 18'),
        ('opt: 1', '--opt 1'),
        ('remode: 1', '--remode 1'),
        ('kd_model_name: 5', '--kd-model-name 5'),
    ],
)
def test_a_number_for_text_is_refused_like_text(parse, text, named):
    with pytest.raises(ValueError, match=named):
        check_stock(prepare(parse(text, *([] if 'device' in text else ['--device', 'cpu']))[0]))


def test_an_experiment_may_be_called_by_a_number(parse):
    args, text = parse('experiment: 5')
    assert prepare(args).experiment == '5' and "experiment: '5'\n" in text


@pytest.mark.parametrize('name', ['cifar10/keepcutout', 'cifar10/keepcutout.yaml', 'hparams/cifar10/keepcutout.yaml'])
def test_recipes_that_come_with_us_are_found_by_name(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert parse_args(create_parser(), ['-c', name])[0].keep_cut == 'cutout'
    file = tmp_path / name
    file.parent.mkdir(parents=True)
    file.write_text('keep_cut: erase')
    assert parse_args(create_parser(), ['-c', name])[0].keep_cut == 'erase', 'what is there comes first'


@pytest.mark.parametrize('name', ['cifar10/kepcutout', '../train', 'cifar'])
def test_no_recipe(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        parse_args(create_parser(), ['-c', name])
    assert f'--config {name} cannot be read' in capsys.readouterr().err


def test_a_mistyped_recipe_gets_the_nearest(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        parse_args(create_parser(), ['-c', 'cifar10/kepcutout'])
    assert 'cifar10/keepcutout' in capsys.readouterr().err


@pytest.mark.parametrize('text', ['lr: 0.1\nepochs: 3\nlr: 0.2', 'model_kwargs:\n  a: 1\n  "a": 2', '{lr: 1, lr: 1}'])
def test_of_a_key_that_stands_twice_the_last_one_counts_and_the_check_refuses_it(text, parse, capsys, caplog):
    args, _ = parse(text)
    assert ' twice, in lines ' in caplog.text and 'the last one counts' in caplog.text
    assert (args.lr, args.model_kwargs) in ((0.2, {}), (None, {'a': 2}), (1, {}))
    with pytest.raises(SystemExit) as ended:
        parse(text, '--check')
    said = capsys.readouterr().err
    assert ended.value.code == 2 and ' twice, in lines ' in said and '--config' in said


def test_an_alias_may_stand_twice(parse):
    args, _ = parse('model_kwargs: &a {b: 1}\nopt_kwargs: *a')
    assert args.model_kwargs == args.opt_kwargs == {'b': 1}
