"""What the splits of a data set are called."""

SPLITS = {
    'train': ('train', 'training'),
    'validation': ('validation', 'val', 'valid', 'test', 'eval', 'evaluation'),
}

# Data sets whose archive calls something else a test split.
WITHOUT_TEST = ('keepaug/mini-imagenet', 'keepaug/tiny-imagenet')


def split_names(dataset: str) -> tuple[str, ...]:
    """What the splits of a data set of ours may be called, but for what would mislead."""
    names = tuple(name for synonyms in SPLITS.values() for name in synonyms)
    return tuple(name for name in names if name != 'test') if dataset in WITHOUT_TEST else names


def to_split(split: str, dataset: str) -> str:
    """Name a split by its first name.

    Args:
        split: Any name that timm has for it, such as `val` or `training`.
        dataset: The data set's name.

    Returns:
        `train` or `validation`.

    Raises:
        ValueError: If the name is none of them.
    """
    known = split_names(dataset)
    if split not in known:
        raise ValueError(f'{split = } is not a split of this data set: use one of {", ".join(known)}.')
    return next(name for name, synonyms in SPLITS.items() if split in synonyms)
