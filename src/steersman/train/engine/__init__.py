"""Engines: sample, score and update on one process or several; a loop knows only their common interface."""
