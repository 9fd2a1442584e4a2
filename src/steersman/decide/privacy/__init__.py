"""Noise that protects people, what is promised about it, and experiments that would find a broken promise."""

from steersman.decide.privacy.accounting import compose, epsilon_at, zcdp
from steersman.decide.privacy.auditing import Audit, audit
from steersman.decide.privacy.bits import SYSTEM, Bits, SeededBits, SystemBits
from steersman.decide.privacy.by_opendp import OpenDPLaplace
from steersman.decide.privacy.certificate import PrivacyCertificate
from steersman.decide.privacy.laplace import DiscreteLaplace, FloatLaplace, NoiseBackend

__all__ = [
    "SYSTEM",
    "Audit",
    "Bits",
    "DiscreteLaplace",
    "FloatLaplace",
    "NoiseBackend",
    "OpenDPLaplace",
    "PrivacyCertificate",
    "SeededBits",
    "SystemBits",
    "audit",
    "compose",
    "epsilon_at",
    "zcdp",
]
