"""The picture of a run."""

import os

import pytest
from PIL import Image

from keepaug.plot import choose_output, draw_curves, main, read_summary
from tests.sentences import says

SUMMARY = """epoch,train_loss,eval_loss,eval_top1,eval_top5,lr,phase,risk_augmented,risk_clean
0,2.0,1.9,30.0,80.0,0.1,,,
1,1.5,1.4,50.0,90.0,0.1,augmented,1.6,1.2
2,1.2,1.1,60.0,92.0,0.1,fading,1.1,0.9
3,0.9,1.0,65.0,93.0,0.01,refined,0.8,0.7
4,0.8,0.9,66.0,93.5,0.01,refined,0.7,0.6
"""


def test_curves_and_phases(tmp_path):
    (tmp_path / 'summary.csv').write_text(SUMMARY)
    figure = draw_curves({'run': read_summary(str(tmp_path))})
    losses, accuracies = figure.axes
    drawn = {line.get_label(): line.get_xydata().tolist() for line in (*losses.lines, *accuracies.lines)}
    assert drawn['training images, clean'] == [[1, 1.2], [2, 0.9], [3, 0.7], [4, 0.6]]
    assert drawn['validation'][0] == [0, 1.9] and drawn['top-1'][-1] == [4, 66.0]
    shades = {patch.get_label(): (patch.get_x(), patch.get_width()) for patch in losses.patches}
    assert shades == {'fading': (1.5, 1.0), 'refined': (2.5, 2.0)}


def test_several_runs_beside_each_other(tmp_path):
    kept = """epoch,eval_loss,eval_top1,saliency_kept
0,1.0,50.0,0.8
1,0.9,55.0,
2,0.8,60.0,0.9
"""
    for name, text in (('plain', SUMMARY), ('$kept', kept)):
        (tmp_path / name).mkdir()
        (tmp_path / name / 'summary.csv').write_text(text)
    figure = draw_curves({name: read_summary(str(tmp_path / name)) for name in ('plain', '$kept')})
    losses, accuracies, saliency = figure.axes
    colours = {line.get_label(): line.get_color() for line in accuracies.lines}
    assert colours == {'plain: top-1': 'C0', 'plain: top-5': 'C0', '$kept: top-1': 'C1'}
    assert [line.get_xydata().tolist() for line in saliency.lines] == [[[0, 0.8], [2, 0.9]]]
    assert not losses.patches, 'the phases of several runs would lie upon each other'


def test_every_run_has_its_name_in_the_legend(tmp_path):
    """Whatever it is called; a run alone has its curves and phases there."""
    (tmp_path / 'summary.csv').write_text(SUMMARY)
    rows = read_summary(str(tmp_path))
    for runs, named in (
        (['_old', '$new$'], [f'{run}: {curve}' for run in ('_old', '$new$') for curve in ('top-1', 'top-5')]),
        (['_old'], ['top-1', 'top-5', 'fading', 'refined']),
    ):
        texts = draw_curves(dict.fromkeys(runs, rows)).axes[1].get_legend().get_texts()
        assert [text.get_text() for text in texts] == named and not any(text.get_parse_math() for text in texts)


def test_a_comparison_takes_no_run_its_own_picture(tmp_path, capsys, monkeypatch):
    for name in ('plain', 'kept'):
        (tmp_path / name).mkdir()
        (tmp_path / name / 'summary.csv').write_text(SUMMARY)
    (tmp_path / 'here').mkdir()
    monkeypatch.chdir(tmp_path / 'here')
    main(['../plain', '../kept'])
    assert capsys.readouterr().out == 'Curves: curves-plain-kept.png\n' and os.listdir() == ['curves-plain-kept.png']
    assert os.listdir(tmp_path / 'plain') == os.listdir(tmp_path / 'kept') == ['summary.csv']
    main(['../plain', '../plain'])
    assert capsys.readouterr().out == 'Curves: ../plain/curves.png\n'


def test_writes_a_picture(tmp_path, capsys):
    (tmp_path / 'summary.csv').write_text('epoch,train_loss,lr\n0,2.0,0.1\n')
    main([str(tmp_path)])
    assert capsys.readouterr().out == f'Curves: {tmp_path}/curves.png\n'
    assert Image.open(tmp_path / 'curves.png').format == 'PNG'
    main([str(tmp_path / 'summary.csv'), '--output', str(tmp_path / 'other.png')])
    assert (tmp_path / 'other.png').exists()


def test_a_run_named_twice_is_drawn_once(tmp_path, capsys):
    (tmp_path / 'summary.csv').write_text('epoch,train_loss,lr\n0,2.0,0.1\n')
    main([str(tmp_path), f'{tmp_path}/', str(tmp_path / 'summary.csv')])
    assert capsys.readouterr().out.endswith('curves.png\n')
    assert (tmp_path / 'curves.png').exists()


@pytest.mark.parametrize(
    'text, said',
    [
        (None, 'does not exist'),
        (b'epoch,train_loss\n', 'no epoch yet'),
        (b'hello\nworld\n', 'no column epoch'),
        (b'epoch,eval_loss\n0,low\n', 'no summary of a run'),
        (b'epoch,eval_loss\n0,\xff\n', 'no summary of a run'),
    ],
)
def test_says_what_is_missing(text, said, tmp_path):
    if text:
        (tmp_path / 'summary.csv').write_bytes(text)
    with pytest.raises(ValueError) as refused:
        main([str(tmp_path)])
    says(str(refused.value), f'{tmp_path}/summary.csv', said)


@pytest.mark.parametrize('name', ['absent/curves.png', 'curves.doc', '.'])
def test_a_place_for_the_picture_that_cannot_be(name, tmp_path):
    """It is said before the run is looked for."""
    with pytest.raises(ValueError) as refused:
        main([str(tmp_path / 'absent'), '--output', str(tmp_path / name)])
    says(str(refused.value), '--output', name)


def test_the_picture_of_many_runs_has_a_name_that_a_file_can_have():
    runs = {f'run{number:03}-with-a-name': '' for number in range(20)}
    assert choose_output(runs) == 'curves-of-20-runs.png'
