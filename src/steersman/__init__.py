"""Policy learning you can trust: methods as parts that combine, and honest experiments that show whether they help.

Importing the package imports nothing heavy: take what you need from its rooms, for example
``from steersman.objective.loss.preference import rdpo``.
"""

__version__ = "0.1.0"
