"""What a sentence to the user must have, without pinning its words."""


def says(sentence: str, *named: str) -> None:
    """Checks that a refusal is one sentence with a way out, and names flags, values and whatever else it must.

    Args:
        sentence: The sentence.
        *named: What must stand in it; of a flag with its value each, wherever.
    """
    assert '\n' not in sentence and sentence.endswith('.') and len(sentence) < 220, sentence
    assert any(mark in sentence for mark in (': ', '; ', ' must ')), f'no way out: {sentence}'
    for part in named:
        for word in part.split() if part.startswith('--') else [part]:
            assert word in sentence, f'{word!r} is not in: {sentence}'
