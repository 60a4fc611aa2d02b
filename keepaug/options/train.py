"""The flags of stock timm's training script: same names, meanings and defaults."""

import argparse

from keepaug.options import shared

# A table, one flag after another as in timm's documentation: its lines stay as they are written.
# fmt: off


def create_train_parser() -> shared.Parser:
    """Every flag of the stock training script, and no other; `-c/--config` is read before it (`parse_args`)."""
    parser = shared.Parser(
        usage='%(prog)s [-c FILE]... [options] [DIR]',
        description='Train an image classifier on a timm backbone.',
        epilog='-c FILE, --config FILE: YAML file of defaults, keys written like flags but with underscores; may be '
               'given several times: a later file wins over an earlier one, the command line over all of them.',
        formatter_class=shared.HelpFormatter,
    )
    for add_group in (
            _dataset, _model, _input, _loading, _computation, _compilation, _device, _optimizer, _schedule, _cropping,
            _augmentation, _mixing, _loss, _dropping, _batch_norm, _ema, _resolution, _naflex, _distillation, _run,
            _logging,
    ):
        add_group(parser)
    return parser


def _dataset(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group('dataset')
    shared.add_data_source(group)
    add = group.add_argument
    add('--train-split', default='train', metavar='NAME', help='split to train on')
    add('--val-split', default='validation', metavar='NAME', help="split to validate on; '' for no validation")
    add('--train-num-samples', type=int, metavar='N', help='length of the training split, for readers that cannot tell')
    add('--val-num-samples', type=int, metavar='N', help='length of the validation split, for readers that cannot tell')


def _model(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group('model')
    add = group.add_argument
    add('--model', type=str, default='resnet50', metavar='NAME', help='architecture, or architecture.tag')
    add('--pretrained', action='store_true', help='start from the published weights')
    add('--pretrained-path', type=str, metavar='FILE', help='with --pretrained: weights to start from instead')
    add('--initial-checkpoint', type=str, default='', metavar='FILE', help='file of weights to start from')
    add('--resume', type=str, default='', metavar='FILE', help='checkpoint to go on from, optimizer and epoch included')
    add('--no-resume-opt', action='store_true', help='leave optimizer and loss scaler out of --resume')
    shared.add_head(group)
    shared.add_model_kwargs(group)
    add('--head-init-scale', type=float, metavar='X', help='factor on the initial weights of the classifier')
    add('--head-init-bias', type=float, metavar='X', help='initial bias of the classifier')


def _input(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group('input')
    shared.add_input_shape(group)
    add = group.add_argument
    add('-b', '--batch-size', type=int, default=128, metavar='N', help='images per training batch and process')
    add('-vb', '--validation-batch-size', type=int, metavar='N', help='images per validation batch, if another')


def _loading(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group('data loading')
    shared.add_loading(group)
    add = group.add_argument
    add('--worker-seeding', type=str, default='all', metavar='MODE', help='generators seeded per worker: all or part')
    add('--use-multi-epochs-loader', action='store_true', help='keep the loader and its workers running across epochs')


def _computation(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group('computation')
    shared.add_speed(group)
    add = group.add_argument
    add('--grad-accum-steps', type=int, default=1, metavar='N', help='batches whose gradients make one update')
    add('--grad-checkpointing', action='store_true', help='recompute activations in the backward pass to save memory')


def _compilation(parser: argparse.ArgumentParser) -> None:
    shared.add_compilation(parser.add_argument_group('compilation'))


def _device(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group('device')
    shared.add_precision(group)
    add = group.add_argument
    add('--no-ddp-bb', action='store_true', help='do not broadcast buffers between processes at every forward')
    add('--synchronize-step', action='store_true', help='wait for the device after every update')
    add('--local_rank', type=int, default=0, metavar='N', help='accepted for old launchers, without effect')
    add('--device-modules', type=str, nargs='+', metavar='MODULE', help='Python modules to import for other devices')


def _optimizer(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group('optimizer').add_argument
    add('--opt', type=str, default='sgd', metavar='NAME', help='optimizer, as timm names it')
    add('--opt-eps', type=float, metavar='X', help='epsilon of the optimizer')
    add('--opt-betas', type=float, nargs='+', metavar='X', help='decay rates of the moment estimates')
    add('--momentum', type=float, default=0.9, metavar='M', help='momentum of the optimizer')
    add('--weight-decay', type=float, default=2e-5, metavar='X', help='weight decay; biases and norms get none')
    add('--clip-grad', type=float, metavar='X', help='bound on the gradients, read as --clip-mode says')
    add('--clip-mode', type=str, default='norm', metavar='MODE', help='what is bounded: norm, value or agc (adaptive)')
    add('--layer-decay', type=float, metavar='X', help='factor on the learning rate from one layer to the one below')
    add('--layer-decay-min-scale', type=float, default=0, metavar='X', help='lowest factor of --layer-decay')
    add('--layer-decay-no-opt-scale', type=float, metavar='X', help='layers whose factor is below this are frozen')
    add('--opt-kwargs', nargs='*', default={}, action=shared.Keywords, metavar='KEY=VALUE',
        help='further keyword arguments of the optimizer')


def _schedule(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group('learning rate schedule').add_argument
    add('--sched', type=str, default='cosine', metavar='NAME', help='schedule, as timm names it, or none')
    add('--sched-on-updates', action='store_true', help='change the rate after every update rather than every epoch')
    add('--lr', type=float, metavar='LR', help='learning rate; unset or 0: scaled from --lr-base')
    add('--lr-base', type=float, default=0.1, metavar='LR', help='learning rate for a global batch of --lr-base-size')
    add('--lr-base-size', type=int, default=256, metavar='N', help='global batch size that --lr-base was chosen for')
    add('--lr-base-scale', type=str, default='', metavar='RULE',
        help='growth of the rate with the batch: linear or sqrt; empty: as the optimizer suggests')
    add('--lr-noise', type=float, nargs='+', metavar='SHARE', help='shares of the run between which the rate is noisy')
    add('--lr-noise-pct', type=float, default=0.67, metavar='SHARE', help='bound on the noise, as a share of the rate')
    add('--lr-noise-std', type=float, default=1.0, metavar='X', help='standard deviation of the noise')
    add('--lr-cycle-mul', type=float, default=1.0, metavar='X', help='length of a cycle relative to the one before')
    add('--lr-cycle-decay', type=float, default=0.5, metavar='X', help='peak of a cycle relative to the one before')
    add('--lr-cycle-limit', type=int, default=1, metavar='N', help='number of cycles')
    add('--lr-k-decay', type=float, default=1.0, metavar='K', help='exponent that bends cosine and poly (k-decay)')
    add('--warmup-lr', type=float, default=1e-5, metavar='LR', help='learning rate at which warmup starts')
    add('--min-lr', type=float, default=0, metavar='LR', help='learning rate at which the schedule ends')
    add('--epochs', type=int, default=300, metavar='N', help='epochs to train, warmup included unless --warmup-prefix')
    add('--epoch-repeats', type=float, default=0., metavar='N',
        help='passes over the training set in one epoch; in stock over iterable sets alone')
    add('--start-epoch', type=int, metavar='N', help='epoch to start at, counted from 0, whatever --resume says')
    add('--decay-milestones', type=int, nargs='+', default=[90, 180, 270], metavar='N',
        help='epochs at which multistep decays the rate')
    add('--decay-epochs', type=float, default=90, metavar='N', help='epochs between two decays of step')
    add('--warmup-epochs', type=int, default=5, metavar='N', help='epochs of rising learning rate')
    add('--warmup-prefix', action='store_true', help='put the warmup before the scheduled epochs, not into them')
    add('--cooldown-epochs', type=int, default=0, metavar='N', help='epochs at --min-lr after the scheduled ones')
    add('--patience-epochs', type=int, default=10, metavar='N', help='epochs without progress before plateau decays')
    add('--decay-rate', '--dr', type=float, default=0.1, metavar='X', help='factor of one decay (poly: the exponent)')


def _cropping(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group('cropping and flipping').add_argument
    add('--no-aug', action='store_true', help='train on plainly resized images, the loader augments nothing')
    add('--train-crop-mode', type=str, metavar='MODE',
        help='training crop: rrc (random resized), rkrc, rkrr (keep the ratio) or pad4 (pad by an eighth, crop)')
    add('--scale', type=float, nargs='+', default=[0.08, 1.0], metavar='SHARE', help='range of the area cropped')
    add('--ratio', type=float, nargs='+', default=[3 / 4, 4 / 3], metavar='X', help='range of the aspect of the crop')
    add('--hflip', type=float, default=0.5, metavar='P', help='probability of a left-right flip')
    add('--vflip', type=float, default=0., metavar='P', help='probability of an upside-down flip')
    add('--train-interpolation', type=str, default='random', metavar='NAME', help='filter that resizes training images')


def _augmentation(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group('augmentation').add_argument
    add('--color-jitter', type=float, default=0.4, metavar='X', help='strength of colour jitter; off under most --aa')
    add('--color-jitter-prob', type=float, metavar='P', help='probability of colour jitter; unset: always')
    add('--grayscale-prob', type=float, metavar='P', help='probability of dropping the colours')
    add('--gaussian-blur-prob', type=float, metavar='P', help='probability of a Gaussian blur')
    add('--aa', type=str, metavar='POLICY',
        help="policy such as rand-m9-mstd0.5, original, v0, 3a or augmix-m5-w4, or torchvision's: tv-cifar10, tv-svhn, "
             'tv-imagenet, each with a magnitude such as -m12, of 30')
    add('--aug-repeats', type=float, default=0, metavar='N', help='draws of a sample per epoch, in distributed runs')
    add('--aug-splits', type=int, default=0, metavar='N', help='views of a sample in one batch, the first one clean')
    add('--reprob', type=float, default=0., metavar='P', help='probability of random erasing')
    add('--remode', type=str, default='pixel', metavar='MODE', help='what erasing fills in: pixel, rand or const')
    add('--recount', type=int, default=1, metavar='N', help='largest number of regions erased in an image')
    add('--resplit', action='store_true', help='never erase the first (clean) split of a batch')


def _mixing(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group('mixing').add_argument
    add('--mixup', type=float, default=0., metavar='ALPHA', help='Beta parameter of mixup; 0: no mixup')
    add('--cutmix', type=float, default=0., metavar='ALPHA', help='Beta parameter of CutMix; 0: no CutMix')
    add('--cutmix-minmax', type=float, nargs='+', metavar='SHARE',
        help="range of the box's share of the side; turns CutMix on and replaces its Beta draw")
    add('--mixup-prob', type=float, default=1.0, metavar='P', help='probability that mixup or CutMix is applied')
    add('--mixup-switch-prob', type=float, default=0.5, metavar='P', help='probability of CutMix where both are on')
    add('--mixup-mode', type=str, default='batch', metavar='MODE', help='one draw per batch, pair or elem; or half')
    add('--mixup-off-epoch', type=int, default=0, metavar='N', help='epoch from which nothing is mixed; 0: none')


def _loss(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group('loss').add_argument
    add('--smoothing', type=float, default=0.1, metavar='X', help='share of the label spread over all classes')
    add('--jsd-loss', action='store_true', help='Jensen-Shannon consistency between --aug-splits, plus cross entropy')
    add('--bce-loss', action='store_true', help='binary cross entropy per class')
    add('--bce-sum', action='store_true', help='sum the binary losses over classes rather than average them')
    add('--bce-target-thresh', type=float, metavar='X', help='soft targets above this count as 1, the others as 0')
    add('--bce-pos-weight', type=float, metavar='X', help='weight of positive targets in the binary loss')


def _dropping(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group('dropping').add_argument
    add('--drop', type=float, default=0., metavar='P', help='dropout rate before the classifier')
    add('--drop-connect', type=float, metavar='P', help='accepted for old recipes, without effect')
    add('--drop-path', type=float, metavar='P', help='rate at which residual branches are skipped (stochastic depth)')
    add('--drop-block', type=float, metavar='P', help='rate of DropBlock')


def _batch_norm(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group('batch norm').add_argument
    add('--bn-momentum', type=float, metavar='M', help='momentum of the statistics, instead of that of the model')
    add('--bn-eps', type=float, metavar='X', help='epsilon of batch norm, instead of that of the model')
    add('--sync-bn', action='store_true', help='batch statistics over all processes')
    add('--dist-bn', type=str, default='reduce', metavar='MODE',
        help="running statistics after an epoch: broadcast, reduce (average), or '' to leave each process its own")
    add('--split-bn', action='store_true', help='separate batch norm for every augmentation split')


def _ema(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group('exponential moving average of the weights').add_argument
    add('--model-ema', action='store_true', help='keep an average of the weights and validate it too')
    add('--model-ema-force-cpu', action='store_true', help='keep the average in host memory; it is not validated then')
    add('--model-ema-decay', type=float, default=0.9998, metavar='X', help='decay of the average per update')
    add('--model-ema-warmup', action='store_true', help='let the decay rise to its value')


def _resolution(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group('scheduled resolution').add_argument
    add('--train-img-sizes', type=int, nargs='+', metavar='PX', help='training image sides to draw from, in pixels')
    add('--train-batch-sizes', type=int, nargs='+', metavar='N', help='batch size of each of --train-img-sizes')
    add('--train-size-probs', type=float, nargs='+', metavar='P', help='probability of each of --train-img-sizes')
    add('--train-size-schedule', type=str, default='constant', choices=['constant', 'progressive'],
        help='draw alike in every epoch, or move from the first size to the last')
    add('--train-size-schedule-spread', type=float, default=0.65, metavar='X', help="spread around the epoch's size")
    add('--train-size-random-mix', type=float, default=0.1, metavar='SHARE', help='share of sizes drawn evenly instead')
    add('--train-batches-per-epoch', '--train-steps-per-epoch', type=int, metavar='N', help='batches in one epoch')
    add('--variable-batch-loss-scale', type=str, default='none', choices=['none', 'sqrt', 'linear'],
        help='growth of the loss with the size of the batch')


def _naflex(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group('NaFlex')
    shared.add_naflex(group)
    add = group.add_argument
    add('--naflex-train-seq-lens', type=int, nargs='+', default=[128, 256, 576, 784, 1024], metavar='N',
        help='training sequence lengths to draw from, in patches')
    add('--naflex-patch-sizes', type=int, nargs='+', metavar='PX', help='patch sides to draw from, in pixels')
    add('--naflex-patch-size-probs', type=float, nargs='+', metavar='P', help='probability of each patch side')
    add('--naflex-loss-scale', type=str, default='linear', choices=['none', 'sqrt', 'linear'],
        help='growth of the loss with the number of images in the batch')
    add('--naflex-patchify-channels-first', action='store_true', help='flatten a patch channel by channel')


def _distillation(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group('distillation').add_argument
    add('--kd-model-name', type=str, metavar='NAME', help='pretrained timm model to learn from; turns distillation on')
    add('--kd-distill-type', type=str, default='logit', choices=['logit', 'feature', 'token'],
        help='what the student imitates')
    add('--kd-loss-type', type=str, default='kl', metavar='NAME', help='divergence between logits')
    add('--distill-loss-weight', type=float, metavar='X', help='weight of the imitation loss')
    add('--task-loss-weight', type=float, metavar='X', help='weight of the label loss')
    add('--kd-temperature', type=float, default=4.0, metavar='T', help='softmax temperature of both models')
    add('--kd-student-feature-dim', type=int, metavar='N', help='feature width of the student; unset: found out')
    add('--kd-teacher-feature-dim', type=int, metavar='N', help='feature width of the teacher; unset: found out')
    add('--kd-token-distill-type', type=str, default='soft', choices=['soft', 'hard'],
        help="token distillation: the teacher's probabilities or its decision")


def _run(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group('run and checkpoints')
    shared.add_seed(group)
    add = group.add_argument
    add('--output', type=str, default='', metavar='DIR', help='folder of all runs; empty: ./output/train')
    add('--experiment', type=str, default='', metavar='NAME', help='folder of this run in it; empty: time, model, size')
    add('--eval-metric', type=str, default='top1', metavar='NAME', help='validation metric that ranks checkpoints')
    add('--val-interval', type=int, default=1, metavar='N', help='epochs from one validation to the next')
    add('--checkpoint-hist', type=int, default=10, metavar='N', help='number of best checkpoints kept')
    add('--recovery-interval', type=int, default=0, metavar='N', help='updates between recovery checkpoints; 0: none')
    add('--tta', type=int, default=0, metavar='N', help='successive validation outputs averaged into one; 0: none')


def _logging(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group('logging').add_argument
    add('--log-interval', type=int, default=50, metavar='N', help='updates from one log line to the next')
    add('--save-images', action='store_true', help='write the input batch as an image at every log line')
    add('--log-wandb', action='store_true', help='log the rows of summary.csv to Weights & Biases')
    add('--wandb-project', type=str, metavar='NAME', help='Weights & Biases project')
    add('--wandb-tags', type=str, nargs='+', default=[], metavar='TAG', help='Weights & Biases tags')
    add('--wandb-resume-id', type=str, default='', metavar='ID', help='Weights & Biases run to go on with')
