"""Trained models for other libraries: `python -m keepaug.export FORMAT CHECKPOINT --output PATH`."""
