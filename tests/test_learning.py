"""What the attacks that train have in common: resuming, finished runs, budgets."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from imageveil.attacks import ATTACKS, Attack, Conditions, Knowledge, Reconstruction, make_attack
from imageveil.attacks.knowledge import PublicScheme
from imageveil.attacks.learning import learn, to_images
from imageveil.errors import UsageError
from imageveil.training.device import Device
from imageveil.training.loop import step_generator

CPU = Device(torch=torch.device("cpu"), bf16=False)


class Learned(Reconstruction):
    def __init__(self, network: nn.Module, conditions: Conditions) -> None:
        self.network, self.conditions = network, conditions

    def reconstruct(self, protected: Tensor, labels: Tensor | None = None) -> Tensor:
        return to_images(self.network, protected, self.conditions)


@pytest.fixture
def affine():
    """An attack that learns one colour map from pairs, registered for one test."""

    @dataclass(frozen=True, kw_only=True)
    class Affine(Attack):
        name: ClassVar[str] = "affine"
        threats: ClassVar[tuple[str, ...]] = ("pairs",)
        budgets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"quick": {"steps": 30}, "smoke": {"steps": 2}}

        steps: int = 100

        def fit(
            self, knowledge: Knowledge, conditions: Conditions | None = None, *, stop_after: int | None = None
        ) -> Reconstruction:
            assert conditions is not None and knowledge.known_pairs is not None
            torch.manual_seed(conditions.seed)
            network = nn.Conv2d(3, 3, 1)
            optimizer = torch.optim.Adam(network.parameters(), lr=0.05)
            pairs = knowledge.known_pairs

            def step(number: int) -> dict[str, Tensor]:
                picked = torch.randperm(len(pairs), generator=step_generator(conditions.seed, number))[:16]
                guess = network(conditions.device.batch(pairs.protected[picked]))
                loss = (guess - conditions.device.batch(pairs.plain[picked])).square().mean()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                return {"loss": loss}

            learn(
                self,
                {"map": network},
                [optimizer],
                step,
                knowledge=knowledge,
                steps=self.steps,
                batch=16,
                conditions=conditions,
                stop_after=stop_after,
            )
            return Learned(network, conditions)

    yield Affine
    del ATTACKS["affine"]


@pytest.fixture
def negatives(tiles) -> Knowledge:
    """Pairs of squares and their negatives."""
    from imageveil.attacks.knowledge import Pairs

    return Knowledge(
        threat="pairs",
        scheme=PublicScheme(name="negative", block=None, key_per_image=False),
        protected=255 - tiles,
        labels=None,
        plain=tiles,
        plain_labels=None,
        known_pairs=Pairs(plain=tiles, protected=255 - tiles),
    )


def test_resumed_equals_uninterrupted_and_a_finished_run_is_read_back(affine, negatives, tiles, tmp_path):
    attack = make_attack("affine")
    whole = attack.fit(negatives, Conditions(device=CPU, folder=tmp_path / "whole"))
    parts = Conditions(device=CPU, folder=tmp_path / "parts")
    attack.fit(negatives, parts, stop_after=11)
    assert not (tmp_path / "parts" / "results.json").exists()
    resumed = attack.fit(negatives, parts)
    assert torch.equal(whole.reconstruct(tiles), resumed.reconstruct(tiles))
    begun = (tmp_path / "parts" / "metrics.jsonl").stat().st_mtime_ns
    again = attack.fit(negatives, parts)
    assert torch.equal(again.reconstruct(tiles), resumed.reconstruct(tiles))
    assert (tmp_path / "parts" / "metrics.jsonl").stat().st_mtime_ns == begun
    with pytest.raises(UsageError, match="other settings"):
        replace(attack, steps=31).fit(negatives, parts)


def test_a_run_belongs_to_what_its_attacker_was_given(affine, negatives, tiles, tmp_path):
    attack, folder = make_attack("affine", preset="smoke"), Conditions(device=CPU, folder=tmp_path)
    attack.fit(negatives, folder)
    pairs = negatives.known_pairs
    for other in (
        {"protected": 254 - tiles},  # another key
        {"plain": tiles.flip(0)},
        {"known_pairs": pairs.first(100)},
        {"known_pairs": replace(pairs, protected=254 - tiles)},
        {"labels": torch.zeros(len(tiles), dtype=torch.long)},
        {"scheme": replace(negatives.scheme, name="other")},
        {"classifier": nn.Linear(3, 2)},
    ):
        with pytest.raises(UsageError, match=r"other settings \(given\)"):
            attack.fit(replace(negatives, **other), folder)
    with pytest.raises(UsageError, match=r"other settings \(threat\)"):
        attack.fit(replace(negatives, threat="oracle"), folder)
    attack.fit(replace(negatives, protected=(255 - tiles).clone()), folder)


def test_large_images_go_through_a_network_a_few_at_a_time():
    sizes = []

    def network(images):
        sizes.append(images.shape[0] * images.shape[2] * images.shape[3])
        return images

    for count, side in ((600, 32), (60, 96), (9, 512)):
        images = torch.randint(256, (count, 3, side, side), dtype=torch.uint8)
        assert torch.equal(to_images(network, images, Conditions(device=CPU)), images)
        # The least that is taken at once is eight images.
        assert max(sizes) <= max(250 * 32 * 32, 8 * side * side) and len(sizes) > 1
        sizes.clear()


def test_more_training_is_nearer(affine, negatives, tiles):
    short, long = (
        make_attack("affine", preset=preset).fit(negatives, Conditions(device=CPU)).reconstruct(255 - tiles)
        for preset in ("smoke", "quick")
    )
    errors = [(guess.float() - tiles.float()).square().mean() for guess in (short, long)]
    assert errors[1] < 0.5 * errors[0]


def test_budgets_and_values(affine):
    assert make_attack("affine").steps == 30
    assert make_attack("affine", {"steps": 7}, preset="smoke").steps == 7
    with pytest.raises(UsageError, match=r"no preset 'huge'.*quick, smoke"):
        make_attack("affine", preset="huge")
    with pytest.raises(UsageError, match="its values are: steps"):
        make_attack("affine", {"depth": 3})
