"""Which epochs a run trains, how strongly augmented, and which are evaluated."""

from dataclasses import dataclass


def last_epoch(args, epochs: int) -> int:
    """The number of epochs after which the run ends: all of them, or those of `--stop-epoch`.

    Args:
        args: Options.
        epochs: Epochs of the whole schedule.

    Raises:
        ValueError: `--stop-epoch` lies beyond the schedule.
    """
    if args.stop_epoch is not None and args.stop_epoch > epochs:
        raise ValueError(f'--stop-epoch {args.stop_epoch} is beyond the {epochs} epochs of the run: lower it.')
    return args.stop_epoch or epochs


def is_evaluated(args, completed: int, last: int) -> bool:
    """Whether validation, a summary row and a checkpoint are due after so many completed epochs."""
    return completed % args.val_interval == 0 or completed == last or completed in args.save_epochs


@dataclass(frozen=True)
class Phases:
    """Which epochs are trained how strongly augmented.

    Attributes:
        scheduled: Epochs of the learning rate's schedule.
        refined: Epochs after them, without intensive augmentation.
        fading: The last scheduled epochs, over which augmentation falls linearly to zero.
    """

    scheduled: int
    refined: int = 0
    fading: int = 0

    @property
    def total(self) -> int:
        return self.scheduled + self.refined

    def ends(self, epoch: int) -> bool:
        """Whether a phase that is reported on ends with this epoch."""
        return epoch + 1 in (self.scheduled, self.total)

    def strength(self, epoch: int) -> float:
        """Share of the augmentation's full strength in an epoch."""
        if not self.refined:
            return 1.0
        return min(1.0, max(0.0, (self.scheduled - epoch) / (self.fading + 1)))

    def name(self, epoch: int) -> str:
        """What `summary.csv` calls an epoch's phase."""
        return {0.0: 'refined', 1.0: 'augmented'}.get(self.strength(epoch), 'fading')


def span(first: int, last: int) -> str:
    """Epochs from the first to the last, in words."""
    return f'epoch {first}' if first == last else f'epochs {first} to {last}'
