"""The accuracy on clean training images: of the right images, read as in validation, by a model left as it is."""
import torch
from timm.data import create_dataset, create_loader
from timm.task import ClassificationTask

from keepaug import options
from keepaug.engine import LoopSettings
from keepaug.engine.clean_accuracy import build_clean_accuracy
from keepaug.engine.device import Precision
from keepaug.engine.risk import choose_samples
from tests.functional.backbones import assert_untouched, everything
from tests.functional.toys import small_cnn
from tests.scripts import write_images

SETTINGS = LoopSettings(device=torch.device('cpu'), precision=Precision())
DATA = dict(input_size=(3, 32, 32), interpolation='bilinear', mean=(0.5,) * 3, std=(0.5,) * 3, crop_pct=0.9)


def build(folder, samples: int):
    args = options.create_parser().parse_args(
        f'{folder} -b 4 -j 0 --seed 3 --log-tensorboard --watch-samples {samples}'.split())
    args.prefetcher = True
    dataset = create_dataset('', root=folder, split='train')
    loader = create_loader(dataset, (3, 32, 32), 4, is_training=True, num_workers=0, device=torch.device('cpu'))
    return build_clean_accuracy(args, dataset, DATA, SETTINGS), dataset, loader


def test_accuracy_image_by_image(tmp_path):
    clean, dataset, _ = build(write_images(tmp_path), samples=10)
    numbers, transform = choose_samples(dataset, 10, seed=3), dataset.transform
    task = ClassificationTask(small_cnn(classes=3), verbose=False).train()
    got = clean.measure(task)

    dataset.transform = create_loader(
        create_dataset('', root=tmp_path, split='val'), (3, 32, 32), 1, mean=DATA['mean'], std=DATA['std'],
        crop_pct=0.9, num_workers=0, use_prefetcher=False).dataset.transform
    model = small_cnn(classes=3).eval()
    hits = [model(dataset[number][0][None]).argmax().item() == dataset[number][1] for number in numbers]
    assert len(set(numbers)) == 10
    assert abs(got['clean_train_top1'] - 10 * sum(hits)) < 1e-3
    assert transform is not dataset.transform, 'the training transform was still there'


def test_nothing_is_touched(tmp_path):
    clean, dataset, loader = build(write_images(tmp_path), samples=1000)
    task = ClassificationTask(small_cnn(classes=3), verbose=False).train()
    model, transform = task.get_trainable_module(), loader.dataset.transform
    before = everything(model)
    first = clean.measure(task)
    assert_untouched(before, model)
    assert clean.measure(task) == first and model.training
    assert loader.dataset.transform is transform and len(clean.batches.dataset) == len(dataset) == 24
