"""An audit of protected images alone: what can be run is run, and nothing can be judged."""

from dataclasses import replace
from importlib import resources
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from imageveil.attacks import Attack, Conditions, Knowledge, Matcher
from imageveil.attacks.knowledge import PublicScheme
from imageveil.audit.attack import EXACT, attacker_figures
from imageveil.audit.cloud import Cloud
from imageveil.audit.metrics import crop_to
from imageveil.audit.recorded import whole_blocks
from imageveil.audit.subjects import SHOWN, Pictures, Subject
from imageveil.images.arrays import ImageArrays, load_arrays
from imageveil.records import record
from imageveil.schemes import SCHEMES
from imageveil.schemes.base import digest
from imageveil.training.identity import images_digest


class ProtectedOnly(Subject):
    """Protected images without plain ones: attacks that need no more are run, and none can be judged.

    Args:
        protected: the images.
        plain: plain images of the same kind; None takes the photographs inside the package.
        images: how many protected images the attacker has at most; None for all.
        algorithm: the published scheme, or `unknown`.
        block: pixels on a block's side; None takes the algorithm's default.
        seed: decides which images the attacker has where these are not all.
    """

    def __init__(
        self,
        protected: ImageArrays,
        *,
        plain: ImageArrays | None,
        images: int | None = None,
        algorithm: str,
        block: int | None = None,
        seed: int = 0,
    ) -> None:
        kind = SCHEMES.get(algorithm)
        self.protected, self.label, self.algorithm = protected, protected.name, algorithm
        self.data, self.judged = protected.name, 0
        lacking = "there are no plain images to go with the protected ones (--data), and no scheme"
        self.impossible = {"pairs": lacking, "oracle": lacking, "gradients": lacking}
        if protected.labels is None:
            self.impossible["recipe"] = "the images have no labels to train the cloud's classifier with"
        block = whole_blocks(protected, algorithm, block)
        other = plain or load_arrays(str(resources.files("imageveil") / "assets" / "photos"), "train")
        self.public = PublicScheme(
            name=algorithm,
            block=block,
            key_per_image=kind is not None and kind.needs_ids,
        )
        had = protected
        if images is not None:
            # Folders are sorted by class, so the first would not do.
            order = torch.randperm(len(protected), generator=torch.Generator().manual_seed(seed))
            had = protected.subset(order[:images])
        self.base = Knowledge(
            threat="ciphertext",
            scheme=self.public,
            protected=had.images.clone(),
            labels=had.labels,
            plain=resize(other.images, protected.images.shape[-2], protected.images.shape[-1]),
            plain_labels=None,
        )
        self.identity = {
            "scheme": [self.label, digest({"protected": self.base.protected})],
            "plain": [other.name, images_digest(other)],
            "algorithm": [algorithm, self.public.block],
            "images": images,
        }

    def knowledge(self, threat: str, *, pairs: int | None, cloud: Cloud | None) -> Knowledge:
        """See `Subject.knowledge`."""
        if threat == "ciphertext":
            return self.base
        public: dict[str, Any] = dict.fromkeys(("architecture", "preset", "data", "init"))
        public |= {"scheme": self.algorithm, "block": self.public.block}
        classifier = None if cloud is None else cloud.open(self.base, self.protected.classes)
        return replace(self.base, threat=threat, classifier=classifier, recipe=public)

    def put_to(
        self, attack: Attack, known: Knowledge, *, preset: str, conditions: Conditions
    ) -> tuple[dict[str, Any], Pictures | None]:
        """See `Subject.put_to`; the record says what the attacker had, and no more."""
        found = attack.fit(known, conditions)
        figures, pictures = attacker_figures(known), None
        if not isinstance(found, Matcher):
            protected = self.protected.images[:SHOWN]
            labels = None if self.protected.labels is None else self.protected.labels[:SHOWN]
            shown = crop_to(found.reconstruct(protected, labels), protected)
            pictures = Pictures(choices={"first": {"protected": protected, "reconstructed": shown}})
            figures |= found.figures()
        made = record(
            task="attack",
            scheme=self.label,
            data=self.data,
            attack=attack.name,
            threat=known.threat,
            preset=preset if attack.budgets else EXACT,
            seed=conditions.seed,
            n=0,
            metrics=figures,
            floors={},
            intervals={},
            device=conditions.device.kind,
        )
        return made, pictures

    def viewer(self) -> dict[str, Any] | None:
        """Nothing to compare with; see `Subject.viewer`."""
        return None


def resize(images: Tensor, height: int, width: int) -> Tensor:
    """Bring uint8 images (N, 3, H, W) to another size, smoothly."""
    if images.shape[-2:] == (height, width):
        return images.clone()
    parts = [
        F.interpolate(part.float(), (height, width), mode="bilinear", antialias=True)
        for part in torch.split(images, 500)
    ]
    return torch.cat(parts).round().clamp(0, 255).to(torch.uint8)
