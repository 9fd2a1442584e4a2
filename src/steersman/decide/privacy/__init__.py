"""Noise that protects people, what is promised about it, and experiments that would find a broken promise."""

from steersman.decide.privacy.auditing import Audit, audit
from steersman.decide.privacy.bits import SYSTEM, Bits, SeededBits, SystemBits
from steersman.decide.privacy.certificate import PrivacyCertificate, compose
from steersman.decide.privacy.laplace import DiscreteLaplace, FloatLaplace

__all__ = [
    "SYSTEM",
    "Audit",
    "Bits",
    "DiscreteLaplace",
    "FloatLaplace",
    "PrivacyCertificate",
    "SeededBits",
    "SystemBits",
    "audit",
    "compose",
]
