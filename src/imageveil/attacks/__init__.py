"""Attempts to get plain images back from protected ones. Adding one is a file here and a line below."""

from imageveil.attacks import brute_force as brute_force
from imageveil.attacks import confirmation as confirmation
from imageveil.attacks import feature_reconstruction as feature_reconstruction
from imageveil.attacks import gan as gan
from imageveil.attacks import gradients as gradients
from imageveil.attacks import inverse_network as inverse_network
from imageveil.attacks import jigsaw as jigsaw
from imageveil.attacks import key_recovery as key_recovery
from imageveil.attacks import leaked_inverse as leaked_inverse
from imageveil.attacks import sdar as sdar
from imageveil.attacks import sia_gan as sia_gan
from imageveil.attacks import statistics as statistics
from imageveil.attacks import unshared_weights as unshared_weights
from imageveil.attacks.base import ATTACKS, Attack, Conditions, Matcher, Reconstruction, make_attack
from imageveil.attacks.knowledge import THREATS, Knowledge
from imageveil.plugins import load_plugins

__all__ = ["ATTACKS", "THREATS", "Attack", "Conditions", "Knowledge", "Matcher", "Reconstruction", "make_attack"]

load_plugins("imageveil.attacks")
