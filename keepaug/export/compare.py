"""Whether another library computes what the model does."""

from collections.abc import Iterable, Mapping

from torch import Tensor

# Largest difference relative to the largest value: float32 gives about 1e-6, a wrong stride or epsilon more than 1e-2.
TOLERANCE = 1e-4


def check_same(found: Mapping[str, Tensor], wanted: Iterable[Tensor], library: str) -> float:
    """Compares outputs of the exported model with timm's.

    Args:
        found: Outputs of the other library by name.
        wanted: timm's, in the same order.
        library: Name for the sentence.

    Returns:
        The largest difference of an output, relative to its largest value.

    Raises:
        ValueError: A difference is too large, or no number.
    """
    largest = 0.0
    for (name, output), other in zip(found.items(), wanted, strict=True):
        difference = ((output - other).abs().max() / other.abs().max().clamp(min=1e-12)).item()
        if not difference <= TOLERANCE:
            raise ValueError(
                f'Nothing was written: {library} computes {name} with a difference of {difference:.1%} from timm.'
            )
        largest = max(largest, difference)
    return largest
