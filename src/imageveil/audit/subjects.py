"""What an audit is made of: a scheme with its owner's images, or protected images alone."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from imageveil.attacks import Attack, Conditions, Knowledge
from imageveil.attacks.knowledge import protect_batches
from imageveil.attacks.surrogates import open_quietly
from imageveil.audit.attack import all_floors, attack_and_judge, build_knowledge
from imageveil.audit.cloud import Cloud, public_recipe
from imageveil.audit.floors import BEST
from imageveil.audit.recognition import Recogniser
from imageveil.audit.similarity import similarity
from imageveil.errors import UsageError
from imageveil.images.arrays import ImageArrays
from imageveil.schemes import SCHEMES, Scheme
from imageveil.schemes.base import digest
from imageveil.schemes.catalogue import SAFE_BITS
from imageveil.schemes.keyed import KeyedScheme
from imageveil.training.identity import images_digest

SHOWN = 16
CEILINGS = ("none", "exact", "all")


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """Images for a page.

    Attributes:
        choices: by name of the choice (`worst`, `random`, `first`), then by what they are (`plain`, `protected`,
            `reconstructed`): uint8 (n, 3, H, W), the same images in the same order.
    """

    choices: Mapping[str, Mapping[str, Tensor]]


class Subject(ABC):
    """What is put to the attacks.

    Attributes:
        label: what records call the scheme.
        algorithm: the published scheme, or `unknown`.
        data: name of the images.
        judged: number of judged images; 0 where there are no plain ones.
        impossible: why a threat model cannot be tried, by threat model.
        identity: what decides the results, for the audit's `config.json`.
        recipe: what is public about the making of the scheme; see `public_recipe`.
        key: what a search for the key would take, in words; empty where there is no key or none is known.
    """

    label: str
    algorithm: str
    data: str
    judged: int
    impossible: Mapping[str, str]
    identity: Mapping[str, Any]
    recipe: Mapping[str, Any] = MappingProxyType({})
    key: str = ""

    @abstractmethod
    def knowledge(self, threat: str, *, pairs: int | None, cloud: Cloud | None) -> Knowledge:
        """What an attacker under this threat model has; without `cloud` not the classifier of `recipe`."""

    @abstractmethod
    def put_to(
        self, attack: Attack, known: Knowledge, *, preset: str, conditions: Conditions
    ) -> tuple[dict[str, Any], Pictures | None]:
        """Run one attack; return its record and pictures, if it makes any."""

    @abstractmethod
    def viewer(self) -> dict[str, Any] | None:
        """The record of what protected images show without an attack, or None where it cannot be measured."""


class OwnersSubject(Subject):
    """A scheme with plain images: everything can be judged.

    Args:
        scheme: the scheme.
        train: the owner's and the attacker's images.
        test: the judged ones, held out.
        plain: unpaired plain images of another source, in place of half of `train`.
        images: how many protected images the attacker has at most; None for half of `train`.
        recogniser: adds the figure `recognition`.
        ceiling: for which attacks the same attack on plain images is run: `none`, `exact` or `all`.
        impossible: why a threat model cannot be tried.
        surrogate: files of schemes that an attacker under `recipe` has made by the same recipe.
        seed: decides every random choice.

    Raises:
        UsageError: `ceiling` is unknown, or a surrogate is no scheme file, or the scheme itself.
    """

    def __init__(
        self,
        scheme: Scheme,
        train: ImageArrays,
        test: ImageArrays,
        *,
        plain: ImageArrays | None = None,
        images: int | None = None,
        recogniser: Recogniser | None = None,
        ceiling: str = "exact",
        impossible: Mapping[str, str] | None = None,
        surrogate: Sequence[Path] = (),
        seed: int = 0,
    ) -> None:
        if ceiling not in CEILINGS:
            raise UsageError(f"--ceiling must be {', '.join(CEILINGS[:-1])} or {CEILINGS[-1]}, not {ceiling!r}")
        self.scheme, self.train, self.test = scheme, train, test
        self.plain, self.images, self.recogniser, self.ceiling, self.seed = plain, images, recogniser, ceiling, seed
        self.label, self.algorithm, self.data, self.judged = scheme.label, scheme.name, test.name, len(test)
        self.impossible, self.recipe = dict(impossible or {}), public_recipe(scheme)
        for path in surrogate:
            if open_quietly(str(path)).digest == digest(scheme.state()[0]):
                raise UsageError(f"--surrogate {path} is the audited scheme itself: that is the threat oracle")
        if surrogate:
            self.recipe = {**self.recipe, "surrogate": [str(path) for path in surrogate]}
        if not hasattr(scheme, "forward"):
            self.impossible.setdefault("gradients", f"{scheme.label} is no network, so that nobody has its gradients")
        self.identity = {
            "scheme": [scheme.label, digest(scheme.state()[0])],
            "algorithm": [scheme.name, getattr(scheme, "block", None)],
            "data": [train.name, len(train), len(test)],
            "images_sha256": [images_digest(train), images_digest(test)],
            "plain": None if plain is None else [plain.name, images_digest(plain)],
            "images": images,
            "recogniser": recogniser is not None,
            "ceiling": ceiling,
        }
        if isinstance(scheme, KeyedScheme):
            height, width = test.images.shape[-2:]
            bits = scheme.key_bits(height, width)
            reach = "which can be searched for, or will be" if bits < SAFE_BITS else "too many to search for"
            self.key = (
                f"The key of {scheme.label} has {bits:,.0f} bits at {width}x{height} pixels, {reach}. That says "
                "nothing about attacks that do not search: what they get stands above."
            )
        self._bases: dict[str, Knowledge] = {}
        self._floor: dict[str, dict[str, float]] | None = None

    def knowledge(self, threat: str, *, pairs: int | None, cloud: Cloud | None) -> Knowledge:
        """See `Subject.knowledge`; training images are protected once for all threat models."""
        return self._knowledge(self.scheme, threat, pairs=pairs, cloud=cloud)

    def _knowledge(self, scheme: Scheme, threat: str, *, pairs: int | None, cloud: Cloud | None) -> Knowledge:
        options: dict[str, Any] = {"plain": self.plain, "images": self.images, "seed": self.seed}
        if scheme.label not in self._bases:
            self._bases[scheme.label] = build_knowledge("ciphertext", scheme, self.train, **options)
        options |= {"pairs": 1 if pairs is None else pairs, "cloud": cloud, "base": self._bases[scheme.label]}
        options["public"] = self.recipe
        return build_knowledge(threat, scheme, self.train, **options)

    def put_to(
        self, attack: Attack, known: Knowledge, *, preset: str, conditions: Conditions
    ) -> tuple[dict[str, Any], Pictures | None]:
        """See `Subject.put_to`; the ceiling is measured along."""
        common: dict[str, Any] = {"preset": preset, "recogniser": self.recogniser, "seed": self.seed}
        made, judged = attack_and_judge(
            attack, self.scheme, known, self.test, floor=self._floors(), conditions=conditions, **common
        )
        top = self._ceiling(attack, known, preset, conditions)
        if top:
            floors = {**made["floors"]}
            made["floors"] = floors | {"ceiling": floors.get("ceiling", {}) | top}
        if judged.shown is None or judged.ssim is None:
            return made, None
        order = judged.ssim.argsort(descending=True)
        chance = torch.randperm(len(order), generator=torch.Generator().manual_seed(self.seed))
        choices = {"worst": order[:SHOWN], "random": chance[:SHOWN]}
        return made, Pictures(choices={name: self._pictures(judged.shown, picked) for name, picked in choices.items()})

    def viewer(self) -> dict[str, Any] | None:
        """See `Subject.viewer`."""
        return similarity(self.scheme, self.test, floor=self._floors(), seed=self.seed)

    def _pictures(self, shown: Tensor, picked: Tensor) -> dict[str, Tensor]:
        keys = [self.test.keys[int(number)] for number in picked]
        plain = self.test.images[picked]
        protected = protect_batches(self.scheme, plain, keys)
        return {"plain": plain, "protected": protected, "reconstructed": shown[picked]}

    def _floors(self) -> dict[str, dict[str, float]]:
        if self._floor is None:
            self._floor = all_floors(self.test, self.train, recogniser=self.recogniser, seed=self.seed)
        return self._floor

    def _ceiling(self, attack: Attack, known: Knowledge, preset: str, conditions: Conditions) -> dict[str, float]:
        """What the attack gets out of images that nobody protected; nothing where that means nothing."""
        wanted = self.ceiling == "all" or (self.ceiling == "exact" and not attack.budgets)
        if not wanted or not attack.applies_to("none") or known.threat in ("recipe", "gradients"):
            return {}
        none = SCHEMES["none"]()
        pairs = None if known.known_pairs is None else len(known.known_pairs)
        bare = self._knowledge(none, known.threat, pairs=pairs, cloud=None)
        folder = None if conditions.folder is None else conditions.folder.with_name("ceiling")
        # What was trained on the scheme is no use on images that nobody protected.
        where = replace(conditions, folder=folder, trained={})
        made, _ = attack_and_judge(
            attack, none, bare, self.test, floor={}, preset=preset, conditions=where, seed=self.seed
        )
        return {name: made["metrics"][name] for name in (*BEST, "confirm_top1") if name in made["metrics"]}
