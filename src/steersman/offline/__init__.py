"""Logged data: transitions in columns, and measures that tell before any training what can be learnt from them."""
