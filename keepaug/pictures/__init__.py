"""Contact sheets."""
