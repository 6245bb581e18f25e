"""The way back that already exists: the G_BA of a stolen run, or the inverse of the public weights a scheme began as.

Training a transformation network (Eq. 9 of the paper) leaves its inverse in the run directory. A scheme that was
continued from a public one (`imageveil train --init`) may still be undone by the inverse of the public one, which
anybody can train.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from safetensors import SafetensorError
from safetensors.torch import load_file

from imageveil.attacks.base import Attack, Conditions, Reconstruction
from imageveil.attacks.inverse_network import Inverse, InverseNetwork, train_inverse
from imageveil.attacks.knowledge import THREATS, Knowledge
from imageveil.attacks.surrogates import open_quietly
from imageveil.errors import UsageError
from imageveil.networks.unet import UNet, UNetConfig


@dataclass(frozen=True, kw_only=True)
class LeakedInverse(Attack):
    """Use an inverse that was not made for this attack.

    Attributes:
        stolen: run directory of `imageveil train` that holds `inverse.safetensors`; goes with any threat, to which it
            adds the theft. None trains the inverse of the public weights, under the threat `recipe`.
        public: the scheme that this one was continued from, by name or path; None takes what the recipe says.
        inverse: budget of the inverse network of the public scheme.
    """

    name: ClassVar[str] = "leaked-inverse"
    threats: ClassVar[tuple[str, ...]] = THREATS
    schemes: ClassVar[tuple[str, ...] | None] = ("learned",)
    budgets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "paper": {"inverse": "paper"},
        "quick": {},
        "smoke": {"inverse": "smoke"},
    }

    stolen: Path | None = None
    public: str | None = None
    inverse: str = "quick"

    def __post_init__(self) -> None:
        InverseNetwork.in_budget(self.inverse)

    @classmethod
    def threats_against(cls, scheme: str, values: Mapping[str, Any], recipe: Mapping[str, Any]) -> tuple[str, ...]:
        """Theft goes with any threat; else somebody must know what the scheme was continued from. See `Attack`."""
        if values.get("stolen") is not None:
            return super().threats_against(scheme, values, recipe)
        known = values.get("public") or recipe.get("init")
        return ("recipe",) if known is not None and cls.applies_to(scheme) else ()

    def fit(self, knowledge: Knowledge, conditions: Conditions | None = None) -> Reconstruction:
        """Read the stolen inverse, or train that of the public scheme. See `Attack.fit`."""
        self.require(knowledge)
        conditions = conditions or Conditions()
        if self.stolen is not None:
            return Stolen(Path(self.stolen), conditions)
        if knowledge.threat != "recipe":
            raise UsageError("leaked-inverse needs a stolen run (--set stolen=DIRECTORY) or --threat recipe")
        public = self.public or knowledge.recipe.get("init")
        if public is None:
            raise UsageError(
                "nothing says which public scheme this one was continued from; name it with --set public=NAME"
            )
        own = open_quietly(str(public))
        return train_inverse(InverseNetwork.in_budget(self.inverse), knowledge, own.oracle, conditions, own=own.digest)


class Stolen(Inverse):
    """The G_BA of a run directory.

    Raises:
        UsageError: the directory holds no inverse, or one that does not fit its configuration.
    """

    def __init__(self, folder: Path, conditions: Conditions) -> None:
        run = folder / "transformation"
        try:
            widths = tuple(json.loads((run / "config.json").read_text())["backward_widths"])
            network = UNet(UNetConfig(widths=widths, top_skip=len(widths) > 3))
            network.load_state_dict(load_file(folder / "inverse.safetensors"))
        except (OSError, SafetensorError, KeyError, ValueError, RuntimeError) as error:
            raise UsageError(f"{folder} is no run directory of imageveil train with an inverse.safetensors") from error
        super().__init__(conditions.device.place(network).eval(), conditions, 0)
        self.logged = logged_error(run)

    def figures(self) -> dict[str, float]:
        """The reconstruction error at the end of its training, over the variance about the mean image."""
        return {} if self.logged is None else {"logged_mse_var": self.logged}


def logged_error(run: Path) -> float | None:
    """The last reconstruction error (squared error over variance) that a run of the transformation trainer logged."""
    path = run / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.is_file() else []
    found = [float(entry["inverse"]) for entry in map(json.loads, lines) if "inverse" in entry]
    return found[-1] if found else None
