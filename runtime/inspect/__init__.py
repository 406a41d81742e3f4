"""Floor 4: looks at both modes from above."""
