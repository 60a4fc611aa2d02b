"""`summary.csv`: stock's file where rows are stock's, and rows that are whole or not there."""

import pytest
from timm.utils import update_summary

from keepaug.files.summary import read_rows
from keepaug.record.summary import Summary, name_metrics
from tests.sentences import says


def test_the_file_is_stocks(tmp_path):
    ours, stocks = tmp_path / 'summary.csv', tmp_path / 'stock.csv'
    for epoch in range(3):
        train, test = {'loss': 1 / (epoch + 3)}, {'loss': 0.1 + 0.2, 'top1': 50.0, 'top5': 1e-17}
        update_summary(epoch, train, test, str(stocks), lr=0.05)
        Summary(str(ours)).write(name_metrics(epoch, train, test, 0.05))
        assert ours.read_bytes() == stocks.read_bytes()


def test_rows_of_other_columns_keep_their_values(tmp_path):
    path = tmp_path / 'summary.csv'
    path.write_text('epoch,train_loss,lr\n0,1.0,0.1\nepoch,train_loss,lr\n1,0.5,0.1\n')  # as timm 1.0.29 resumed
    summary = Summary(str(path))
    summary.write({'epoch': 2, 'train_loss': 0.2, 'eval_top1': 50.0, 'lr': 0.1})
    summary.write({'epoch': 2, 'train_loss': 0.25, 'eval_top1': 50.0, 'lr': 0.1, 'phase': 'refined'})
    assert path.read_text().split() == [
        'epoch,train_loss,lr,eval_top1,phase',
        '0,1.0,0.1,,',
        '1,0.5,0.1,,',
        '2,0.25,0.1,50.0,refined',
    ]
    assert summary.drop_from(1) == 2
    assert [row['epoch'] for row in summary.rows()] == ['0']
    assert summary.drop_from(0) == 1 and not path.exists()
    assert summary.drop_from(0) == 0


def test_rows_are_whole_or_not_there(tmp_path, monkeypatch):
    """A row that cannot be written to its end leaves the file as it was."""
    path, row = tmp_path / 'summary.csv', {'epoch': 0, 'train_loss': 1.0, 'lr': 0.1}
    (tmp_path / '.summary-draft.csv').write_text('left by a killed run')
    summary = Summary(str(path))
    summary.write(row)
    before = path.read_text()
    assert before.startswith('epoch,') and len(before.splitlines()) == 2

    def full(*args, **kwargs):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr('csv.DictWriter.writerows', full)
    with pytest.raises(OSError, match='summary.csv cannot be written .No space left on device.*stays whole'):
        summary.write({**row, 'epoch': 1, 'phase': 'refined'})
    assert path.read_text() == before
    assert [left.name for left in tmp_path.iterdir()] == ['summary.csv']


@pytest.mark.parametrize(
    'text, said',
    [
        ('epoch;train_loss\n0;1.5\n', 'no column epoch'),  # as spreadsheets write it where commas are for decimals
        ('\nepoch,train_loss\n0,1.5\n', 'no column epoch'),
        ('epoch,train_loss\nzero,1.5\n', 'zero stands where'),
        ('epoch,train_loss\ninf,1.5\n', 'inf stands where'),
        ('epoch,train_loss\n0.5,1.5\n', '0.5 stands where'),
        ('epoch,train_loss\n,1.5\n', 'nothing stands where'),
    ],
)
def test_a_damaged_summary_is_told_by_its_name(text, said, tmp_path):
    path = tmp_path / 'summary.csv'
    path.write_text(text)
    with pytest.raises(ValueError) as refused:
        Summary(str(path)).rows()
    says(str(refused.value), str(path), said, 'move it away')
    assert path.read_text() == text


def test_reads_what_other_programs_wrote_anew(tmp_path):
    path = tmp_path / 'summary.csv'
    path.write_bytes('epoch,eval_top1\r\n0.0,50.0\r\n1.0,\r\n'.encode('utf-8-sig'))
    rows = read_rows(path, numbers=['eval_top1'])
    assert [row['epoch'] for row in rows] == ['0', '1'] and rows[0]['eval_top1'] == '50.0'
    assert Summary(str(path)).row(1) == rows[1]
    with pytest.raises(ValueError, match='no summary'):
        path.write_text('epoch,eval_top1\n0,half\n')
        read_rows(path, numbers=['eval_top1'])
