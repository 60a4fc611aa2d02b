"""One epoch of training."""

import logging
import math
import os
import time
from collections import OrderedDict
from contextlib import nullcontext
from dataclasses import dataclass, field

import torch
import torchvision
from timm.data import Mixup
from timm.scheduler.scheduler import Scheduler
from timm.task import TrainingTask
from timm.utils import AverageMeter, CheckpointSaver, NativeScaler, dispatch_clip_grad, reduce_tensor

from keepaug.console.errors import RunFailed
from keepaug.console.interrupts import raise_pending_signal
from keepaug.console.progress import Progress
from keepaug.files.drafts import whole_file
from keepaug.training.forward import Forward
from keepaug.training.schedule import HeldRate
from keepaug.training.wrapped_task import WrappedTask

_logger = logging.getLogger('train')

# How a batch's loss is weighted by its size, relative to the average batch (`--variable-batch-loss-scale`).
BATCH_LOSS_POWER = {'none': 0.0, 'sqrt': 0.5, 'linear': 1.0}


@dataclass
class LoopSettings:
    """What the loop needs to know of a run beside the objects it drives.

    Attributes:
        forward: How batches reach the model.
        scaler: Loss scaler, or None.
        world_size: Processes of the run.
        rank: This process.
        grad_accum_steps: Batches per update.
        scheduled_epochs: Epochs of the learning rate's schedule, which what moves with every update counts on.
        clip_grad: Clipping value, or None.
        clip_mode: 'norm', 'value' or 'agc'.
        average_batch_size: Samples per batch, on average over the run.
        copies: Rows of a batch that come from one sample; a sample counts once in sizes and throughput.
        batch_loss_scale: How the gradient of a batch is weighted by its size: 'none', 'sqrt' or 'linear'.
        log_interval: Updates between log lines.
        recovery_interval: Updates between recovery checkpoints; 0 for none.
        uneven_ranks: Whether processes may see different numbers of images in a step; losses are weighted by them.
        synchronize_step: Wait for the device after each update.
        image_dir: Where `--save-images` writes, or None.
        dist_bn: How processes share batch norm's statistics after an epoch: 'broadcast', 'reduce' or '' for not at all.
        validate_ema: Whether averaged weights are validated too.
        tta: Consecutive outputs averaged in validation; 0 or 1 for none.
        progress: What follows the passes.
    """

    forward: Forward = Forward()
    scaler: NativeScaler | None = None
    world_size: int = 1
    rank: int = 0
    grad_accum_steps: int = 1
    scheduled_epochs: int = 1
    clip_grad: float | None = None
    clip_mode: str = 'norm'
    average_batch_size: float = 1.0
    copies: int = 1
    batch_loss_scale: str = 'none'
    log_interval: int = 50
    recovery_interval: int = 0
    uneven_ranks: bool = False
    synchronize_step: bool = False
    image_dir: str | None = None
    dist_bn: str = ''
    validate_ema: bool = False
    tta: int = 0
    progress: Progress = field(default_factory=Progress)

    @classmethod
    def from_args(
        cls, args, forward: Forward, scaler: NativeScaler | None, average_batch_size: float, scheduled_epochs: int
    ) -> 'LoopSettings':
        return cls(
            forward=forward,
            scaler=scaler,
            world_size=args.world_size,
            rank=args.rank,
            grad_accum_steps=max(1, args.grad_accum_steps),
            scheduled_epochs=scheduled_epochs,
            clip_grad=args.clip_grad,
            clip_mode=args.clip_mode,
            average_batch_size=average_batch_size,
            copies=args.augment_copies,
            batch_loss_scale=args.naflex_loss_scale if args.naflex_loader else args.variable_batch_loss_scale,
            log_interval=args.log_interval,
            recovery_interval=args.recovery_interval,
            uneven_ranks=args.naflex_loader and args.world_size > 1,
            synchronize_step=args.synchronize_step,
            dist_bn=args.dist_bn if args.distributed and args.dist_bn in ('broadcast', 'reduce') else '',
            validate_ema=args.model_ema and not args.model_ema_force_cpu,
            tta=args.tta,
        )

    def loss_weight(self, batch_size: int) -> float | torch.Tensor:
        """Weight of a batch's loss, by its size against the average batch and against those of the other processes."""
        weight = (batch_size / self.average_batch_size) ** BATCH_LOSS_POWER[self.batch_loss_scale]
        if self.uneven_ranks:
            # DDP averages over processes; this makes it an average over images.
            total = torch.full((), float(batch_size), device=self.forward.device)
            torch.distributed.all_reduce(total)
            weight = weight * self.world_size * batch_size / total
        return weight


def train_one_epoch(
    epoch: int,
    task: TrainingTask,
    loader,
    optimizer: torch.optim.Optimizer,
    settings: LoopSettings,
    scheduler: Scheduler | HeldRate | None = None,
    saver: CheckpointSaver | None = None,
    mixup_fn: Mixup | None = None,
) -> OrderedDict[str, float]:
    """Trains for one epoch.

    An update is made on every `grad_accum_steps`-th batch and on the last one; the trailing group of fewer batches
    is one update whose losses are divided by their own number.

    Returns:
        `loss`: the mean training loss, weighted by batch size and averaged over processes.

    Raises:
        RunFailed: In no process had any batch a finite loss.
    """
    task.train()
    optimizer.zero_grad()
    batches = len(loader)
    updates = math.ceil(batches / settings.grad_accum_steps)
    trailing = batches % settings.grad_accum_steps or settings.grad_accum_steps
    # Where the task takes pairs, or the loader copies samples, a sample has several rows and counts once.
    rows_per_sample = getattr(task, 'rows_per_sample', 1) * settings.copies
    weighted = BATCH_LOSS_POWER[settings.batch_loss_scale] or settings.uneven_ranks
    create_graph = getattr(optimizer, 'is_second_order', False)
    # Summed on the device in double precision: the same numbers as a meter of floats, without waiting for each batch.
    loss_sum = torch.zeros((), dtype=torch.float64, device=settings.forward.device)
    loss_count = 0
    least_loss = torch.full_like(loss_sum, math.inf)  # of those that are numbers
    update_time, data_time = AverageMeter(), AverageMeter()
    update_samples = 0
    update_start = data_start = time.time()
    data_wait = 0.0

    with settings.progress.training(epoch, batches):
        for batch_idx, (input, target) in enumerate(loader):
            raise_pending_signal()
            last_batch = batch_idx + 1 == batches
            group_size = trailing if batch_idx >= batches - trailing else settings.grad_accum_steps
            need_update = last_batch or (batch_idx + 1) % settings.grad_accum_steps == 0
            update_idx = batch_idx // settings.grad_accum_steps
            input, target = settings.forward.place_batch(input, target)
            if mixup_fn is not None:
                input, target = mixup_fn(input, target)
            batch_size = len(input['patches'] if isinstance(input, dict) else input) // rows_per_sample
            data_wait += time.time() - data_start
            if isinstance(task, WrappedTask):
                task.set_step((epoch + update_idx / updates) / settings.scheduled_epochs)

            with nullcontext() if need_update else task.no_sync():
                with settings.forward.autocast():
                    loss = task(input, target)['loss'] / group_size
                # As in stock, the weight is the gradient's alone: what is logged is the loss of the images.
                descended = loss * settings.loss_weight(batch_size) if weighted else loss
                _backward(descended, need_update, task, optimizer, settings, create_graph)
            loss = loss.detach().double() * group_size
            loss_sum += loss * batch_size
            loss_count += batch_size
            least_loss = torch.fmin(least_loss, loss)
            update_samples += batch_size * settings.world_size
            settings.progress.advance(batch_size * settings.world_size)
            if not need_update:
                data_start = time.time()
                continue

            num_updates = epoch * updates + update_idx + 1
            optimizer.zero_grad()
            task.update_ema(step=num_updates)
            settings.progress.last_update = epoch, update_idx
            if settings.synchronize_step and settings.forward.device.type == 'cuda':
                torch.cuda.synchronize()
            now = time.time()
            update_time.update(now - update_start)
            data_time.update(data_wait)
            update_start, data_wait = now, 0.0

            if last_batch or update_idx % settings.log_interval == 0:
                lr = mean_lr(optimizer)
                loss_now, loss_avg = loss, loss_sum / loss_count
                if settings.world_size > 1:
                    loss_now = reduce_tensor(loss_now, settings.world_size)
                    loss_avg = reduce_tensor(loss_avg, settings.world_size)
                if settings.rank == 0:
                    shown_loss = f'{loss_now.item():#.3g} ({loss_avg.item():#.3g})'
                    settings.progress.show_loss(loss=shown_loss)
                    _logger.info(
                        f'Train: {epoch} [{update_idx:>4d}/{updates} ({100 * (update_idx + 1) / updates:>3.0f}%)]  '
                        f'Loss: {shown_loss}  '
                        f'Time: {update_time.val:.3f}s, {update_samples / update_time.val:>7.2f}/s  '
                        f'({update_time.avg:.3f}s, {update_samples / update_time.avg:>7.2f}/s)  '
                        f'LR: {lr:.3e}  '
                        f'Data: {data_time.val:.3f} ({data_time.avg:.3f})'
                    )
                    if settings.image_dir:
                        # Of pairs the augmented rows, which are what a loader without pairs would give.
                        shown = input[-batch_size * settings.copies :]
                        picture = os.path.join(settings.image_dir, f'train-batch-{batch_idx}.jpg')
                        with whole_file(picture) as draft:
                            torchvision.utils.save_image(shown, draft, padding=0, normalize=True)
            update_samples = 0
            if saver is not None and settings.recovery_interval and (update_idx + 1) % settings.recovery_interval == 0:
                saver.save_recovery(epoch, batch_idx=update_idx)
            if scheduler is not None:
                scheduler.step_update(num_updates=num_updates)
            data_start = time.time()

        if hasattr(optimizer, 'sync_lookahead'):
            optimizer.sync_lookahead()
        outcome = torch.stack([loss_sum / max(loss_count, 1), least_loss.isfinite().double()])
        if settings.world_size > 1:
            outcome = reduce_tensor(outcome, settings.world_size)
        loss_avg, finite = outcome.tolist()
        if batches and not finite:
            raise RunFailed(
                f'The training loss was not finite in any batch of epoch {epoch}, so the run ends: try a lower --lr, '
                'a longer --warmup-epochs, --clip-grad 1, or with --amp also --amp-dtype bfloat16.'
            )
        return OrderedDict(loss=loss_avg)


def _backward(
    loss: torch.Tensor,
    need_update: bool,
    task: TrainingTask,
    optimizer: torch.optim.Optimizer,
    settings: LoopSettings,
    create_graph: bool,
) -> None:
    """Backward pass and, where an update is due, clipping and the optimizer's step."""
    clip = (
        dict(
            clip_grad=settings.clip_grad,
            clip_mode=settings.clip_mode,
            parameters=task.get_clip_parameters(exclude_head='agc' in settings.clip_mode),
        )
        if need_update and settings.clip_grad is not None
        else {}
    )
    if settings.scaler is not None:
        if need_update:
            settings.progress.last_update = None
        settings.scaler(loss, optimizer, create_graph=create_graph, need_update=need_update, **clip)
        return
    loss.backward(create_graph=create_graph)
    if need_update:
        if clip:
            dispatch_clip_grad(clip['parameters'], value=clip['clip_grad'], mode=clip['clip_mode'])
        settings.progress.last_update = None
        optimizer.step()


def mean_lr(optimizer: torch.optim.Optimizer) -> float:
    """Mean learning rate over the parameter groups."""
    rates = [group['lr'] for group in optimizer.param_groups]
    return sum(rates) / len(rates)
