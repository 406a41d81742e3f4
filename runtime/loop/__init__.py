"""The loop IR: grammar (ir.py), lowering, schedules, verifier, text, interpreter."""
