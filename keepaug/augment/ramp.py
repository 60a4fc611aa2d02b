"""A share that rises over the first part of the training."""


class Ramp:
    """A share that rises linearly from 0 to 1.

    Args:
        length: Share of the training over which it rises; 0 for none: it is 1 from the beginning.
    """

    def __init__(self, length: float):
        self.length = length
        self.progress: float | None = None

    def set_progress(self, progress: float) -> None:
        """Takes the share of the training that is done, 0 to 1."""
        self.progress = progress

    def __float__(self) -> float:
        """The share at present.

        Raises:
            ValueError: It rises, and nobody has told how far the training is.
        """
        if not self.length:
            return 1.0
        if self.progress is None:
            raise ValueError(
                'A probability that rises over the training needs to know its progress: call set_progress(epoch / '
                'max(1, epochs - 1)) of the task or the augmentation before each epoch.'
            )
        return min(1.0, max(0.0, self.progress / self.length))

    def __str__(self) -> str:
        """What to say behind a probability; empty where nothing rises."""
        return f', rising over {self.length:.0%} of the epochs' if self.length else ''
