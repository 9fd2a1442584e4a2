"""Learners for simulators and controllers."""
