"""The accuracy on clean training images: of the right images, read as in validation, by a model left as it is."""

import torch
from timm.data import create_dataset, create_loader, create_transform
from timm.task import ClassificationTask

from keepaug import options
from keepaug.measuring.clean_accuracy import build_clean_accuracy
from keepaug.measuring.risks import choose_samples
from keepaug.training.forward import Forward
from tests.functional.backbones import assert_untouched, everything
from tests.functional.toys import small_cnn
from tests.scripts import write_images

DATA = dict(input_size=(3, 32, 32), interpolation='bilinear', mean=(0.5,) * 3, std=(0.5,) * 3, crop_pct=0.9)


def build(folder, samples: int):
    """The measurement, and the run's data set, which has the transform of training."""
    args = options.create_parser().parse_args(
        f'{folder} -b 4 -j 0 --seed 3 --log-tensorboard --watch-samples {samples}'.split()
    )
    args.prefetcher = True
    dataset = create_dataset('', root=folder, split='train')
    create_loader(dataset, (3, 32, 32), 4, is_training=True, num_workers=0, device=torch.device('cpu'))
    transform = dataset.transform
    clean = build_clean_accuracy(args, dataset, DATA, Forward())
    assert dataset.transform is transform
    return clean, dataset


def test_accuracy_image_by_image(tmp_path):
    clean, dataset = build(write_images(tmp_path, size=40), samples=10)
    numbers = choose_samples(dataset, 10, seed=3)
    got = clean.measure(ClassificationTask(small_cnn(classes=3), verbose=False).train())

    dataset.transform = create_transform(is_training=False, **DATA)
    images, labels = zip(*(dataset[number] for number in numbers))
    assert len(set(numbers)) == 10
    torch.testing.assert_close(torch.cat([x for x, _ in clean.batches]), torch.stack(images))
    model = small_cnn(classes=3).eval()
    hits = [model(image[None]).argmax().item() == label for image, label in zip(images, labels)]
    assert abs(got['clean_train_top1'] - 10 * sum(hits)) < 1e-3


def test_nothing_is_touched(tmp_path):
    clean, dataset = build(write_images(tmp_path), samples=1000)
    task = ClassificationTask(small_cnn(classes=3), verbose=False).train()
    model, transform = task.get_trainable_module(), dataset.transform
    before = everything(model)
    first = clean.measure(task)
    assert_untouched(before, model)
    assert clean.measure(task) == first and model.training
    assert dataset.transform is transform and len(clean.batches.dataset) == len(dataset) == 24
