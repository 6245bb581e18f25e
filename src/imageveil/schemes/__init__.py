"""Schemes: each turns a uint8 batch of plain images into a uint8 batch of protected images."""

from imageveil.schemes import learned as learned
from imageveil.schemes.base import SCHEMES, Scheme, load_scheme

__all__ = ["SCHEMES", "Scheme", "load_scheme"]
