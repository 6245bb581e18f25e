"""Each equation of the paper against a slow, plain reference."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from imageveil.networks.feature_extractor import IMAGENET_MEAN, MEAN_ACTIVATION, FeatureExtractor
from imageveil.training import objectives
from imageveil.training.preliminary import mean_loss, project, protection_step


@pytest.fixture
def images(tiles) -> torch.Tensor:
    return tiles[:6].float() / 255


@pytest.fixture
def classifier() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 10)).requires_grad_(False)


LABELS = torch.tensor([0, 3, 1, 9, 4, 4])


def cross_entropy(logits: np.ndarray, label: int) -> float:
    return float(np.log(np.exp(logits - logits.max()).sum()) + logits.max() - logits[label])


def test_eq1_is_the_mean_of_the_losses(images, classifier):
    logits = classifier(images).double().numpy()
    expected = sum(cross_entropy(row, int(y)) for row, y in zip(logits, LABELS, strict=True)) / len(LABELS)
    assert math.isclose(float(mean_loss(classifier, images, LABELS)), expected, rel_tol=1e-5)


def test_eq2_projects_into_the_ball_and_the_range(images):
    far = images + torch.linspace(-2, 2, images.numel()).view_as(images)
    near = project(far, images, eps=0.3)
    for value, source, out in zip(far.flatten()[::97], images.flatten()[::97], near.flatten()[::97], strict=True):
        expected = min(max(float(value), float(source) - 0.3), float(source) + 0.3)
        assert math.isclose(float(out), min(max(expected, 0.0), 1.0), abs_tol=1e-6)


def test_eq3_steps_down_the_loss_by_alpha(images, classifier):
    out = protection_step(classifier, images, images, LABELS, eps=1.0, alpha=0.01)
    # The loss is linear-softmax, so its gradient is known: W^T (softmax - onehot).
    weight = classifier[1].weight
    error = classifier(images).softmax(1) - torch.eye(10)[LABELS]
    gradient = (error @ weight).view_as(images)
    expected = (images - 0.01 * gradient.sign()).clamp(0, 1)
    assert torch.allclose(out, expected, atol=1e-6)
    assert mean_loss(classifier, out, LABELS) < mean_loss(classifier, images, LABELS)


def test_eq4_and_eq5_weigh_their_terms():
    one, two, three = (torch.tensor(value) for value in (1.0, 2.0, 3.0))
    cycle = objectives.cycle_loss(one, two, three, gamma1=-1.0, gamma2=0.4, gamma3=0.9)
    assert math.isclose(float(cycle), -1.0 + 0.8 + 2.7, rel_tol=1e-6)
    total = objectives.generative_loss(one, two, cycle, lambda_=0.4)
    assert math.isclose(float(total), 0.4 + 0.8 + 2.5, rel_tol=1e-6)


def test_least_squares_ask_for_one_where_images_are_real():
    scores, real = torch.tensor([0.5, -1.0]), torch.tensor([1.0, 2.0])
    assert math.isclose(float(objectives.adversarial_loss(scores)), (0.25 + 4.0) / 2, rel_tol=1e-6)
    expected = 0.5 * ((0.0 + 1.0) / 2 + (0.25 + 1.0) / 2)
    assert math.isclose(float(objectives.discriminator_loss(real, scores)), expected, rel_tol=1e-6)


def test_eq6_stops_rewarding_beyond_the_margin():
    near, far = torch.tensor(1.0), torch.tensor(40.0, requires_grad=True)
    assert float(objectives.perceptual_loss(near, far)) == 41.0
    bounded = objectives.perceptual_loss(near, far, margin=3.0)
    bounded.backward()
    assert float(bounded) == 4.0 and float(far.grad) == 0.0


def test_eq7_is_the_normalised_squared_distance(images):
    a, b = images[:3, :, :5, :7], images[3:, :, :5, :7]
    n, c, h, w = a.shape
    expected = sum(
        float((b[i, k, y, x] - a[i, k, y, x]) ** 2) / (c * h * w)
        for i in range(n) for k in range(c) for y in range(h) for x in range(w)
    ) / n  # fmt: skip
    assert math.isclose(float(objectives.feature_distance(a, b)), expected, rel_tol=1e-4)


def test_eq8_pairs_each_logit_with_its_own_label(images, classifier):
    forward, backward = classifier(images[:3]), classifier(images[3:])
    value = objectives.classification_loss(forward, LABELS[:3], backward, LABELS[3:])
    expected = sum(cross_entropy(row.double().numpy(), int(y)) for row, y in zip(forward, LABELS[:3], strict=True)) / 3
    expected += (
        sum(cross_entropy(row.double().numpy(), int(y)) for row, y in zip(backward, LABELS[3:], strict=True)) / 3
    )
    assert math.isclose(float(value), expected, rel_tol=1e-5)


def test_eq9_adds_the_errors_of_both_cycles(images):
    a, b = images[:3], images[3:]
    expected = float(np.mean((b.numpy() - a.numpy()) ** 2)) + float(np.mean((a.numpy() / 2 - b.numpy()) ** 2))
    assert math.isclose(float(objectives.reconstruction_loss(b, a, a / 2, b)), expected, rel_tol=1e-5)


def test_feature_extractor_matches_a_plain_convolution(images):
    """relu1_2 at one place, from the definition, with ImageNet's mean and channel order."""
    network = FeatureExtractor()
    x = images[:1, :, 10:15, 10:15] * 255 - torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1)
    first = np.zeros((64, 3, 3))
    for row in range(3):
        for column in range(3):
            patch = x[0, :, row : row + 3, column : column + 3].double().numpy()
            weight, bias = network.conv1_1.weight.double().numpy(), network.conv1_1.bias.double().numpy()
            first[:, row, column] = np.maximum((weight * patch).sum(axis=(1, 2, 3)) + bias, 0)
    weight, bias = network.conv1_2.weight.double().numpy(), network.conv1_2.bias.double().numpy()
    expected = np.maximum((weight * first).sum(axis=(1, 2, 3)) + bias, 0) / MEAN_ACTIVATION
    assert np.allclose(network(images[:1])[0, :, 12, 12].numpy(), expected, rtol=1e-3, atol=1e-3)


def test_features_have_mean_near_one_on_photographs(images):
    assert 0.3 < float(FeatureExtractor()(images).mean()) < 3


def test_viewer_that_sees_everything_scores_zero_and_a_blind_one_scores_one(images):
    mean = images.mean(dim=0, keepdim=True)
    edges = objectives.outlines(images)
    perfect = torch.cat([images - mean, 10 * (edges - edges.mean())], dim=1)
    scores = objectives.viewer_scores(perfect, images, mean)
    assert float(scores.image) < 1e-6 and float(scores.outlines) < 1e-6
    blind = objectives.viewer_scores(torch.zeros_like(perfect), images, mean)
    assert math.isclose(float(blind.image), 1, rel_tol=1e-5) and math.isclose(float(blind.outlines), 1, rel_tol=1e-5)
    assert math.isclose(float(blind.bounded(0.92)), 1.84, rel_tol=1e-5)


def test_distillation_loss_is_zero_for_equal_features_and_one_for_none(images):
    features = [images - images.mean(dim=(0, 2, 3), keepdim=True)]
    assert float(objectives.distillation_loss(features, features)) == 0
    assert math.isclose(float(objectives.distillation_loss([0 * features[0]], features)), 1, rel_tol=1e-4)
