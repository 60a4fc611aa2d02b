"""Watching a run: `--log-tensorboard`. What is written is in `keepaug.record.tensorboard`."""

from keepaug.methods.method import Flag, Method, Need
from keepaug.ranges import Range

# Costs as much as the training steps of a third as many images, 0.03 % of an epoch of ImageNet and 0.7 % of one of
# CIFAR, and leaves an accuracy a standard error of 1.6 points at most.
SAMPLES = 1024


class WatchingMethod(Method):
    """Writes numbers and pictures of every epoch; changes no weight."""

    name = 'watching'
    title = 'watching a run'
    switch = Flag(
        '--log-tensorboard',
        resumable=True,
        help="write each epoch's numbers (summary row, accuracy on clean training images, share of saliency kept, "
        "images per second) and a sheet of what the augmentations did to the run's folder for TensorBoard, and "
        'with --log-wandb also to Weights & Biases; --log-wandb by itself logs only the summary row',
    )
    settings = (
        Flag(
            '--watch-samples',
            type=int,
            default=SAMPLES,
            metavar='N',
            resumable=True,
            range=Range(least=0, whole=True, unit='image'),
            help='measure the accuracy on N training images, the same in every epoch, read as in validation; 0: none',
        ),
    )
    needs = Need.OWN_SCRIPT
    on_batches = False
    example = '--log-tensorboard'
