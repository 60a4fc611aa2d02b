"""Looks at training images, as they are and as they are augmented."""
