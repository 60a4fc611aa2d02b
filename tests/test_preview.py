"""The sheet that shows a run's augmentations before it is trained."""

import hashlib
import math

import pytest
import torch
from PIL import Image

from keepaug import preview
from keepaug.augment import BatchAugment, create_augment
from keepaug.console.errors import explain_errors
from keepaug.functional import attention_grid
from keepaug.measuring.intervals import half_width, student_t
from keepaug.measuring.regions import Step, join, measure, run_steps
from keepaug.measuring.windows import Trial, Window
from keepaug.methods import method_of
from keepaug.pictures import record
from keepaug.pictures.record import label_captions, step_columns
from tests.functional.backbones import create_backbone
from tests.functional.toys import small_cnn
from tests.scripts import TINY, run_train
from tests.test_every_method import METHODS

CELL = 96  # px: three times 32
MODES = {
    'no-prefetcher': '--no-prefetcher',
    'workers': '-j 2',
    'amp': '--amp --amp-dtype bfloat16',
    'half-model': '--model-dtype bfloat16',
    'channels-last': '--channels-last',
    'non-square': '--input-size 3 32 40',
    'grey': '--in-chans 1',
    'grey-no-prefetcher': '--in-chans 1 --no-prefetcher',
    'mixing': '--mixup 0.2 --cutmix 1.0',
    'mixing-no-prefetcher': '--mixup 0.2 --cutmix 1.0 --no-prefetcher',
    'autoaugment': '--aa rand-m9-mstd0.5 --reprob 1',
    'bce': '--bce-loss',
    'teacher': '--kd-model-name test_vit',
    'sizes': '--train-img-sizes 32 40',
    'ema': '--model-ema --grad-accum-steps 2',
    'compile': '--torchcompile',
}


@pytest.fixture
def run_preview(tmp_path, monkeypatch):
    """Runs the preview on a command line and gives the sheet."""
    monkeypatch.setattr(preview, 'setup_default_logging', lambda: None)
    path = tmp_path / 'sheet.png'

    def run(flags):
        preview.main([*flags.split(), '--preview-output', str(path)])
        return Image.open(path).convert('RGB')

    return run


def test_schedule_shows_as_it_ends(data, run_preview, capsys):
    run_preview(f'{data} {TINY} --cutmix-variant scheduled --preview-images 6')
    assert 'CutMixVariant' in capsys.readouterr().out


@pytest.mark.parametrize('method', METHODS)
def test_every_method_gives_a_sheet(method, data, run_preview):
    sheet = run_preview(f'{data} {TINY} {METHODS[method]} --preview-images 6')
    assert sheet.height > 6 * CELL and len(sheet.getcolors(1 << 24)) > 1000


# What stock itself does to images, or where.
WITHOUT_METHOD = ('no-prefetcher', 'workers', 'grey-no-prefetcher', 'mixing', 'mixing-no-prefetcher', 'autoaugment')


@pytest.mark.parametrize(
    'method, mode', [*(('--keep-cut --keep-size 8', mode) for mode in MODES), *(('', mode) for mode in WITHOUT_METHOD)]
)
def test_follows_the_data_path(mode, method, data, run_preview):
    shape = TINY.replace('--img-size 32', '') if '--input-size' in MODES[mode] else TINY
    sheet = run_preview(f'{data} {shape} {method} {MODES[mode]} --preview-images 5')
    assert len(sheet.getcolors(1 << 24)) > 200


def test_the_same_seed_shows_the_same_crops(data, run_preview, monkeypatch):
    """Whatever the flags that are to be chosen, and what they make of the model."""
    received = []
    monkeypatch.setattr(
        preview, 'run_steps', lambda augments, x, *rest: received.append(x.clone()) or run_steps(augments, x, *rest)
    )
    flags = (
        '--keep-cut --keep-size 4',
        '--keep-cut --keep-size 20 --keep-tau 0.1',
        '--cutout 8',
        '--keep-cut --keep-size 8 --keep-saliency early',
        '--keep-cut --keep-size 8 --model test_vit',
    )
    for flag in (*flags, '--cutout 8 --seed 1'):
        run_preview(f'{data} {TINY} {flag} --preview-images 6')
    *same, other = received
    assert all(torch.equal(crops, same[0]) for crops in same) and not torch.equal(other, same[0])


@pytest.mark.parametrize('asked, shown', [(1, 1), (5, 5), (24, 24), (100, 24)])
def test_shows_as_many_images_as_there_are(asked, shown, data, run_preview, monkeypatch):
    told = []
    monkeypatch.setattr(preview, 'label_captions', lambda *args: told.extend(label_captions(*args)) or told)
    sheet = run_preview(f'{data} {TINY} --mixup 0.2 --preview-images {asked}')
    assert len(told) == shown and sheet.height > math.ceil(shown / math.ceil(shown / record.ROWS)) * CELL


def test_table_and_sheet_say_what_was_measured(data, run_preview, capsys, caplog):
    with caplog.at_level('INFO', logger='train'):
        run_preview(f'{data} {TINY} --keep-cut --keep-size 16 --preview-images 6')
    said = capsys.readouterr().out
    row = next(line for line in said.splitlines() if 'KeepCut' in line)
    cells = [cell.strip() for cell in row.strip('│').split('│')]
    assert cells[:6] == ['KeepCut', 'removed', '16 px', '0.6', '6', '25.0 %']
    assert all(0 < float(cell.removesuffix(' %')) < 100 for cell in cells[6:8])
    assert cells[8].endswith(' points') and '±' in cells[8] and '--keep-tau none' in said
    assert 'sheet.png' in said
    assert any('untrained model' in record.message for record in caplog.records)


def table_of(said: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip('│').split('│')] for line in said.splitlines() if line.startswith('│')]


def test_sizes_and_quantiles_side_by_side(data, run_preview, capsys):
    """On more images than are drawn, the run's own window first, then each of the others once, the smallest first."""
    run_preview(
        f'{data} {TINY} --keep-cut --keep-size 12 --preview-images 4 --preview-statistics 22 --preview-sizes 16 8 16 '
        '--preview-taus none 0.3'
    )
    said = capsys.readouterr().out
    rows = table_of(said)
    windows = [('12 px', '0.6'), *((f'{size} px', tau) for size in (8, 16) for tau in ('0.3', 'none'))]
    assert [tuple(row[2:4]) for row in rows] == windows
    assert all(row[4] == '22' and row[5] == f'{100 * (int(row[2][:-3]) / 32) ** 2:.1f} %' for row in rows)
    assert [row[8] == '-' for row in rows] == [tau == 'none' for _, tau in windows]
    assert 'of 22' in said


def test_no_control_is_named_where_nothing_has_one(data, run_preview, capsys):
    run_preview(f'{data} {TINY} --attentive-cutmix --attentive-teacher self --img-size 64 --preview-images 4')
    said = capsys.readouterr().out
    assert 'AttentiveCutMix' in said and '--keep-tau' not in said and 'window' not in said


@pytest.mark.parametrize('method', ['--keep-cut', '--keep-paste --aa rand-m3', '--keep-paste --aa rand-m3 --keep-cut'])
def test_the_sheet_is_the_same_whatever_is_measured_beside(method, data, run_preview):
    flags = f'{data} {TINY} {method} --keep-size 8 --preview-images 4'
    sheets = [run_preview(f'{flags} {more}') for more in ('', '--preview-statistics 20 --preview-sizes 4 12')]
    # Below the lines that tell the shares, of more images in the second.
    pixels = [sheet.crop((0, 64, *sheet.size)).tobytes() for sheet in sheets]
    assert pixels[0] == pixels[1]


@pytest.mark.parametrize('side, method', [('low', 'keep-cut'), ('high', 'keep-paste')])
def test_a_window_beside_its_control(side, method):
    """A map whose left half is salient: n = 400 images, their windows drawn by it and blindly."""
    saliency = torch.full((400, 1, 16, 16), 0.01)
    saliency[..., :8] = 1.0
    x, target = torch.zeros(400 * (2 if side == 'high' else 1), 3, 16, 16), torch.zeros(400, dtype=torch.long)
    settings = dict(model=small_cnn(), num_classes=3, size=4)
    augments = [create_augment(method, tau=tau, **settings) for tau in (0.3 if side == 'low' else 0.7, None)]
    trial = Trial(method_of(method), Window(4, augments[0].tau), *augments)
    trial.add((x, target), saliency, saliency, seed=0)
    assert trial.count == 400 and trial.area == 1 / 16
    blind, kept = trial.controls.mean(), trial.saliencies.mean()
    assert blind == pytest.approx(1 / 16, abs=0.003), 'as much of the saliency as of the image'
    # Of the 13 columns of places the last five show 0.01 alone, the first five 1.0 alone: less than 0.3 on either side.
    total = 16 * 8 * 1.01
    assert kept == pytest.approx((16 * 0.01 if side == 'low' else 16 * 1.0) / total, rel=1e-6)
    gain, half = trial.gain
    assert gain == pytest.approx(abs(kept - blind).item()) and 0 < half < gain / 10


def test_interval_of_a_mean():
    from scipy import stats

    for freedom in (1, 2, 3, 4, 9, 15, 255):
        assert student_t(freedom) == pytest.approx(stats.t.ppf(0.975, freedom), abs=0.01)
    values = torch.arange(16.0)
    mean, error = values.mean().item(), stats.sem(values.numpy())
    low, high = stats.t.interval(0.95, 15, mean, error)
    assert half_width(values) == pytest.approx((high - low) / 2, rel=1e-3)
    assert math.isnan(half_width(values[:1]))


def test_attentive_cutmix_shows_what_chose_the_region():
    """The partner, and its attention, with the region outlined on both: the row's own map chose nothing."""
    model = create_backbone('resnet')
    augment = create_augment('attentive-cutmix', model=model, num_classes=7, grid=2, patches=1)
    torch.manual_seed(0)
    x = torch.randn(6, 3, 64, 64)
    (step,), _ = run_steps([augment], x, torch.arange(6) % 3, 4, model)
    partner = augment.last['partner'][:4]
    assert torch.equal(step.drawn['partner_image'], x[partner])
    columns, outlines = step_columns(step, (0.0,) * 3, (1.0,) * 3)
    names = [f'AttentiveCutMix: {name}' for name in ('partner', "partner's attention", 'result')]
    assert list(columns) == names and list(outlines) == names[:2]
    best = attention_grid(model, x, 2)[partner].flatten(1).argmax(1)
    for mask, cell in zip(step.mask[:, 0], best.tolist()):
        top, left = 32 * (cell // 2), 32 * (cell % 2)
        assert mask.sum() == 32**2 and mask[top : top + 32, left : left + 32].all()


# From where: weights, early head, and nothing changed.


def sources(caplog):
    return [record.message for record in caplog.records if record.message.startswith('Saliency is that of')]


@pytest.mark.parametrize('flag', ['--preview-checkpoint', '--resume'])
def test_checkpoint_with_its_early_head(flag, data, tmp_path, run_preview, caplog):
    run = run_train(f'{data} {TINY} --epochs 1 --keep-cut --keep-size 8 --keep-saliency early', tmp_path)
    checkpoint = run / 'last.pth.tar'
    before = {path.name: hashlib.sha256(path.read_bytes()).digest() for path in run.iterdir()}
    loaded = []
    with caplog.at_level('INFO', logger='train'), pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            preview, 'run_steps', lambda augments, *rest: loaded.extend(augments) or run_steps(augments, *rest)
        )
        run_preview(f'{data} {TINY} --keep-cut --keep-size 8 --keep-saliency early {flag} {checkpoint}')
    assert sources(caplog) == [f'Saliency is that of weights of {checkpoint}.']
    saved = torch.load(checkpoint, weights_only=False)
    model = loaded[0].model
    for state, kept in ((model.backbone, saved['state_dict']), (model.head, saved['task_state']['early_exit'])):
        assert all(torch.equal(value, kept[name]) for name, value in state.state_dict().items())
    assert {path.name: hashlib.sha256(path.read_bytes()).digest() for path in run.iterdir()} == before


def test_says_that_a_head_is_untrained(data, tmp_path, run_preview, caplog):
    checkpoint = run_train(f'{data} {TINY} --epochs 1', tmp_path) / 'last.pth.tar'
    with caplog.at_level('INFO', logger='train'):
        run_preview(f'{data} {TINY} --keep-cut --keep-saliency early --preview-checkpoint {checkpoint}')
        run_preview(f'{data} {TINY} --keep-cut --initial-checkpoint {checkpoint}')
    assert sources(caplog) == [
        f'Saliency is that of weights of {checkpoint}, its early head untrained.',
        f'Saliency is that of weights of {checkpoint}.',
    ]


def test_pretrained_weights_with_another_head(data, tmp_path, run_preview, caplog):
    import timm

    weights = tmp_path / 'weights.pth'
    torch.save(timm.create_model('test_resnet').state_dict(), weights)
    with caplog.at_level('INFO', logger='train'):
        run_preview(f'{data} {TINY} --keep-cut --pretrained --pretrained-path {weights}')
    assert sources(caplog) == ['Saliency is that of pretrained weights, its classifier untrained.']


def test_model_is_left_as_it_was():
    torch.manual_seed(0)
    model = small_cnn().train()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    x, target = torch.randn(4, 3, 16, 16), torch.arange(4) % 3
    augments = [create_augment('keep-cut', model=model, num_classes=3, size=4), create_augment('cutmix', num_classes=3)]
    kept = x.clone()
    run_steps(augments, x, target, 4, model)
    assert torch.equal(x, kept)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())
    assert all(module.training for module in model.modules())


# What is shown of augmentations that the preview does not know.


class Halving(BatchAugment):
    """Takes pairs, the clean rows first, and pastes the left half of the clean ones."""

    def augment(self, x, target, generator):
        clean, augmented = x.chunk(2)
        mask = torch.zeros(len(clean), 1, *x.shape[-2:], dtype=torch.bool)
        mask[..., : x.shape[-1] // 2] = True
        self.last = {'mask': mask, 'augmented': augmented, 'saliency': clean.abs().amax(1, keepdim=True), 'stage': 3}
        return torch.where(mask, clean, augmented), target[: len(clean)]


class Doubling(BatchAugment):
    """Gives every image twice, the second time black, and looks at a coarse grid."""

    def augment(self, x, target, generator):
        mask = torch.ones(len(x), 1, 2, 2, dtype=torch.bool)
        self.last = {'grid': torch.rand(len(x), 4, 4), 'mask': mask, 'saliency': None}
        return torch.cat([x, torch.zeros_like(x)]), torch.cat([target, target])


def test_rows_are_followed_through_pairs_and_copies():
    model = small_cnn()
    x, target = torch.randn(12, 3, 16, 16), torch.arange(6).repeat(2) % 3
    halved, doubled = run_steps([Halving(), Doubling()], x, target, 4, model)[0]
    assert torch.equal(halved.result[..., :8], x[:4, ..., :8]) and torch.equal(halved.result[..., 8:], x[6:10, ..., 8:])
    assert torch.equal(halved.drawn['augmented'], x[6:10])
    assert not doubled.result.any() and doubled.result.shape == (4, 3, 16, 16)
    labels = run_steps([Halving(), Doubling()], x, target, 4, model)[1]
    assert labels.tolist() == [0, 1, 2, 0]

    columns, outlines = step_columns(halved, (0.0,) * 3, (1.0,) * 3)
    assert list(columns) == ['Halving: policy', 'Halving: saliency', 'Halving: result']
    assert torch.equal(outlines['Halving: saliency'], halved.drawn['mask'])
    columns, outlines = step_columns(doubled, (0.0,) * 3, (1.0,) * 3)
    assert list(columns) == ['Doubling: attention', 'Doubling: saliency', 'Doubling: result']
    assert all(picture.shape == (4, 3, 16, 16) for picture in columns.values())
    assert outlines['Doubling: saliency'].shape == (4, 1, 16, 16)


def test_an_augmentation_that_is_off_is_not_shown():
    augment = create_augment('cutout', size=4)
    augment.enabled = False
    assert run_steps([augment], torch.randn(2, 3, 16, 16), torch.zeros(2, dtype=torch.long), 2, small_cnn())[0] == []


@pytest.mark.parametrize(
    'name, settings, columns',
    [
        ('mixup', dict(mixup_alpha=1.0), ['result']),
        ('mixup', dict(mixup_alpha=0.0, cutmix_alpha=1.0), ['saliency', 'result']),
        ('keep-cut', dict(size=4, prob=0.0), ['saliency', 'result']),
    ],
)
def test_saliency_is_shown_where_a_region_was_drawn_or_could_have_been(name, settings, columns):
    model = small_cnn()
    augment = create_augment(name, model=model, num_classes=3, **settings)
    torch.manual_seed(0)
    (step,), _ = run_steps([augment], torch.randn(4, 3, 16, 16), torch.arange(4) % 3, 4, model)
    shown = step_columns(step, (0.0,) * 3, (1.0,) * 3)[0]
    assert [label.partition(': ')[2] for label in shown] == columns
    assert (step.mask is None) == (columns == ['result'])


def made_step(mask, judge, name='keep-cut', **drawn):
    x = torch.zeros(len(mask), 3, *mask.shape[-2:])
    augment = create_augment('cutout', size=2)
    return Step(augment, method_of(name), (x, torch.zeros(len(x))), {'mask': mask, **drawn}, judge, x)


def test_shares_of_a_hand_drawn_case():
    mask = torch.zeros(3, 1, 4, 4, dtype=torch.bool)
    mask[0, 0, :2, :2] = True
    mask[1, 0, :, :2] = True  # the third image has no region
    judge = torch.ones(3, 1, 4, 4)
    judge[0, 0, :2, :2] = 3.0
    shares = measure(made_step(mask, judge))
    assert (shares.region, shares.count) == ('removed', 2)
    assert shares.area == pytest.approx((0.25 + 0.5) / 2)
    assert shares.saliency == pytest.approx((12 / 24 + 0.5) / 2)
    both = join([shares, measure(made_step(mask[1:2], judge[1:2]))])
    assert both.count == 3 and both.saliency == pytest.approx((12 / 24 + 0.5 + 0.5) / 3)


@pytest.mark.parametrize(
    'name, drawn, region',
    [
        ('keep-cut', {}, 'removed'),
        ('keep-cut', {'partner': torch.arange(2)}, 'replaced'),
        ('attentive-cutmix', {}, 'replaced'),
        ('keep-paste', {'augmented': torch.zeros(2, 3, 4, 4)}, 'put back'),
    ],
)
def test_what_was_done_is_told_by_the_method(name, drawn, region):
    shares = measure(made_step(torch.ones(2, 1, 4, 4, dtype=torch.bool), torch.ones(2, 1, 4, 4), name, **drawn))
    assert (shares.region, shares.saliency) == (region, 1.0)
    assert region in record.describe_shares(shares)


def test_no_region_and_no_saliency():
    empty = measure(made_step(torch.zeros(2, 1, 4, 4, dtype=torch.bool), torch.ones(2, 1, 4, 4)))
    assert empty.count == 0 and record.percent(empty.saliency) == '-'
    assert 'no region' in record.describe_shares(empty)
    flat = measure(made_step(torch.ones(2, 1, 4, 4, dtype=torch.bool), torch.zeros(2, 1, 4, 4)))
    assert flat.area == 1.0 and record.percent(flat.saliency) == '-'


def test_captions():
    names = {0: 'cat', 2: 'dog'}
    assert list(label_captions(torch.tensor([2, 1]), names, 2)) == ['dog: 100 %', '1: 100 %']
    shares = torch.tensor([[0.25, 0.0, 0.75], [1.0, 0.0, 0.0], [0.5, 0.4999, 0.0001]])
    assert list(label_captions(shares, names, 3)) == ['dog: 75 %, cat: 25 %', 'cat: 100 %', 'cat: 50 %, 1: 50 %']


def test_captions_follow_the_pixels(data, run_preview, monkeypatch):
    """Under label smoothing too: what stands below an image is the share of its pixels."""
    told, steps = [], []

    def watched(augments, *rest):
        result = run_steps(augments, *rest)
        steps.extend(result[0])
        return result

    monkeypatch.setattr(preview, 'run_steps', watched)
    monkeypatch.setattr(preview, 'label_captions', lambda *args: told.extend(label_captions(*args)) or told)
    run_preview(f'{data} {TINY} --keep-cut cutmix --mixup-mode elem --smoothing 0.1 --preview-images 20')
    left = 1 - steps[0].drawn['mask'].float().mean((1, 2, 3))
    mixed = 0
    for caption, share in zip(told, left):
        parts = dict(part.rsplit(': ', 1) for part in caption.split(', '))
        assert set(parts) <= {'class0', 'class1', 'class2'}
        if len(parts) == 2:
            mixed += 1
            numbers = [float(number.removesuffix(' %')) for number in parts.values()]
            assert sum(numbers) == pytest.approx(100, abs=0.2)
            assert any(number == pytest.approx(100 * share.item(), abs=0.1) for number in numbers)
    assert mixed >= 5


# Refusals.


@pytest.mark.parametrize(
    'flags, words',
    [
        ('--preview-images 0', ['--preview-images must', 'between 1 and']),
        ('--keep-cut --preview-statistics 4', ['--preview-statistics 4', '16 images', '--preview-images']),
        ('--preview-sizes 8', ['--preview-sizes', '--keep-cut or --keep-paste']),
        ('--cutout --preview-taus 0.5', ['--preview-taus', '--keep-cut or --keep-paste']),
        ('--keep-cut --preview-sizes 8 33', ['--preview-sizes', 'at most 32', '33']),
        ('--keep-cut --preview-sizes 0', ['--preview-sizes must', 'between 1 and']),
        ('--keep-cut --preview-taus 1.5', ['--preview-taus', '1.5']),
        ('--keep-cut cutmix --preview-sizes 8', ['--preview-sizes', '--keep-cut cutmix', 'drawn']),
        ('--preview-output {tmp}/sheet.txt', ['--preview-output', '.png']),
        ('--preview-output {tmp}/sheet.psd', ['--preview-output', '.png']),
        ('--preview-output {tmp}/no/such/sheet.png', ['--preview-output', 'cannot be written']),
        ('--preview-output /proc/sheet.png', ['--preview-output /proc/sheet.png', 'cannot be written']),
        ('--preview-checkpoint /no/such/file', ['--preview-checkpoint /no/such/file', 'does not exist']),
        ('--preview-checkpoint {other}', ['--preview-checkpoint', '3 classes']),
        ('--resume {other}', ['--resume', '3 classes']),
        ('--preview-checkpoint {other} --resume {other}', ['--preview-checkpoint', '--resume', 'drop one']),
        ('--preview-checkpoint {tmp}/x.safetensors', ['--initial-checkpoint']),
        ('--keep-cut --keep-size 33', ['--keep-size', '33', 'at most 32']),
        ('--keep-cut --cutout', ['--keep-cut and --cutout']),
        ('--model resnet5O', ['resnet50']),
    ],
)
def test_refuses(flags, words, data, tmp_path, run_preview, capsys):
    import timm

    other = tmp_path / 'other.pth.tar'
    torch.save({'state_dict': timm.create_model('test_resnet', num_classes=7).state_dict()}, other)
    given = flags.format(tmp=tmp_path, other=other)
    output = [] if '--preview-output' in given else ['--preview-output', str(tmp_path / 'sheet.png')]
    with pytest.raises(SystemExit) as leave:
        explain_errors(lambda: preview.main([str(data), *TINY.split(), *given.split(), *output]))
    assert leave.value.code == 2
    said = [line for line in capsys.readouterr().err.splitlines() if ': error' in line]
    assert len(said) == 1 and all(word in said[0] for word in words)
    assert not (tmp_path / 'sheet.png').exists()


def test_check_writes_nothing(data, tmp_path, run_preview):
    with pytest.raises(FileNotFoundError):
        run_preview(f'{data} {TINY} --keep-cut --check')
