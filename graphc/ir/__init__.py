"""The intermediate representation: scalar expressions, interned nodes, graphs, text, verifier."""
