"""Figures and HTML primitives: numbers, tables, curves, intervals, the token strip and the shell of a page.

Leaves out: anything about studies, claims or verdicts (`study.report` composes these parts), and any server.
"""
