"""Looks at training images, as they are and as they are augmented."""
from keepaug.measuring.risks import build_risks
