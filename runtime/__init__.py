"""Floor 3: from a Graph to a callable. Read compile.py first."""
