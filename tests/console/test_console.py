"""What a run says and leaves: the fields of its log lines, results on stdout, files in its folder."""

import json
import re

import yaml

from tests.scripts import TINY, run_train

NUMBER = r'[-+.\de]+'
TRAIN = re.compile(
    rf'Train: (?P<epoch>\d+) \[ *(?P<update>\d+)/(?P<updates>\d+) \( *(?P<percent>\d+)%\)\]  '
    rf'Loss: (?P<loss>{NUMBER}) \((?P<mean>{NUMBER})\)  '
    rf'Time: {NUMBER}s, +{NUMBER}/s  \({NUMBER}s, +{NUMBER}/s\)  LR: (?P<lr>\d\.\d{{3}}e[-+]\d\d)  '
    rf'Data: {NUMBER} \({NUMBER}\)'
)
TEST = re.compile(
    rf'Test(?P<ema> \(EMA\))?: \[ *(?P<batch>\d+)/(?P<last>\d+)\]  Time: {NUMBER} \({NUMBER}\)  '
    rf'Loss: +{NUMBER} \( *{NUMBER}\)  Acc@1: +{NUMBER} \( *{NUMBER}\)  Acc@5: +{NUMBER} \( *{NUMBER}\)'
)


def test_log_lines_have_stocks_fields(data, tmp_path, caplog):
    with caplog.at_level('INFO', logger='train'):
        run_train(f'{data} {TINY} --log-interval 2 --model-ema', tmp_path)
    lines = [record.message for record in caplog.records]
    training = [match.groupdict() for line in lines if (match := TRAIN.fullmatch(line))]
    assert [(row['epoch'], row['update'], row['updates'], row['percent']) for row in training] == [
        (epoch, update, '3', percent) for epoch in '01' for update, percent in (('0', '33'), ('2', '100'))
    ]
    testing = [match.groupdict() for line in lines if (match := TEST.fullmatch(line))]
    assert [row['batch'] for row in testing] == ['0', '2'] * 4
    assert [bool(row['ema']) for row in testing] == [False, False, True, True] * 2
    assert sum(line.startswith(('Train:', 'Test')) for line in lines) == len(training) + len(testing)


def test_results_end_with_the_best(data, tmp_path, capsys):
    capsys.readouterr()
    run_train(f'{data} {TINY} --epochs 3', tmp_path)
    head, _, body = capsys.readouterr().out.partition('--result\n')
    assert head == ''
    results = json.loads(body)
    assert sorted(result['epoch'] for result in results) == [0, 1, 2]
    top1 = [result['validation']['top1'] for result in results]
    assert top1 == sorted(top1)


def test_without_validation_the_lowest_training_loss_is_best(data, tmp_path, capsys):
    capsys.readouterr()
    run_train(f"{data} {TINY} --val-split ''", tmp_path)
    results = json.loads(capsys.readouterr().out.partition('--result\n')[2])
    losses = [result['train']['loss'] for result in results]
    assert losses == sorted(losses, reverse=True)


def test_args_yaml_repeats_the_run(data, tmp_path):
    """args.yaml given back with --config asks for the same run."""
    first = run_train(f'{data} {TINY} --keep-cut --keep-size 8 --keep-tau none --epochs 1', tmp_path, 'first')
    second = run_train(f'{data} --config {first}/args.yaml', tmp_path, 'second')
    one, other = (yaml.safe_load((run / 'args.yaml').read_text()) for run in (first, second))
    assert one.pop('experiment') == 'first' and other.pop('experiment') == 'second'
    assert one == other
    assert one['keep_tau'] is None and one['lr'] == 0.05 and 'prefetcher' not in one
    assert (first / 'summary.csv').read_text() == (second / 'summary.csv').read_text()


def test_images_and_recovery_files(data, tmp_path):
    run = run_train(f'{data} {TINY} --epochs 1 --save-images --log-interval 1 --recovery-interval 1', tmp_path)
    names = {path.name for path in run.iterdir()}
    assert {f'train-batch-{batch}.jpg' for batch in range(3)} <= names
    assert {name for name in names if name.startswith('recovery')} == {
        'recovery-0-1.pth.tar',
        'recovery-0-2.pth.tar',
    }  # the current and the previous
