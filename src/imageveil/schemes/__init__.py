"""Schemes: each turns a uint8 batch of plain images into a uint8 batch of protected images."""

from imageveil.plugins import load_plugins
from imageveil.schemes import blockwise as blockwise
from imageveil.schemes import compressible as compressible
from imageveil.schemes import controls as controls
from imageveil.schemes import extended as extended
from imageveil.schemes import learned as learned
from imageveil.schemes import patches as patches
from imageveil.schemes import pixelwise as pixelwise
from imageveil.schemes import tanaka as tanaka
from imageveil.schemes.base import SCHEMES, Scheme, load_scheme

__all__ = ["SCHEMES", "Scheme", "load_scheme"]

load_plugins("imageveil.schemes")
