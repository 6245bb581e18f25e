"""The objective of the transformation network: Eq. 4 to 9 of the paper, one function an equation.

Names follow the paper: x plain, x_p preliminary protected, G_AB plain to protected, G_BA back, F_A and F_B the
discriminators of the two domains, h_theta the frozen classifier.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def adversarial_loss(scores: Tensor) -> Tensor:
    """L_ad for a generator, least squares (Mao et al. 2017): its images should score one."""
    return (scores.float() - 1).square().mean()


def discriminator_loss(real: Tensor, generated: Tensor) -> Tensor:
    """Least squares: real images score one, generated ones zero."""
    return 0.5 * ((real.float() - 1).square().mean() + generated.float().square().mean())


def generative_loss(backward: Tensor, forward: Tensor, cycle: Tensor, *, lambda_: float) -> Tensor:
    """Eq. 4: lambda L_ad(G_BA, F_A) + lambda L_ad(G_AB, F_B) + L_cyc."""
    return lambda_ * backward + lambda_ * forward + cycle


def cycle_loss(
    perceptual: Tensor, classification: Tensor, reconstruction: Tensor, *, gamma1: float, gamma2: float, gamma3: float
) -> Tensor:
    """Eq. 5: gamma1 L_p + gamma2 L_c + gamma3 L_r; gamma1 is negative, so L_p is maximised."""
    return gamma1 * perceptual + gamma2 * classification + gamma3 * reconstruction


def perceptual_loss(forward: Tensor, backward: Tensor, *, margin: float = 0.0) -> Tensor:
    """Eq. 6: L_feat(x, G_AB(x)) + L_feat(x, G_BA(x_p)).

    Args:
        forward: L_feat(x, G_AB(x)).
        backward: L_feat(x, G_BA(x_p)).
        margin: no reward beyond this distance each. The paper's term is unbounded (0): maximised, it leads to inverted
            or saturated images, which still show everything.
    """
    if margin:
        return forward.clamp(max=margin) + backward.clamp(max=margin)
    return forward + backward


def feature_distance(first: Tensor, second: Tensor) -> Tensor:
    """Eq. 7: squared distance of feature maps (N, C, H, W) over C H W, averaged over the batch."""
    return (second.float() - first.float()).square().mean()


def classification_loss(forward: Tensor, labels: Tensor, backward: Tensor, p_labels: Tensor) -> Tensor:
    """Eq. 8: CE(h_theta(G_AB(x)), y) + CE(h_theta(G_BA(x_p)), y_p), from logits (N, classes).

    The label y_p that goes with an x_p is that of the image it was made from.
    """
    return F.cross_entropy(forward.float(), labels) + F.cross_entropy(backward.float(), p_labels)


def reconstruction_loss(x_cycled: Tensor, x: Tensor, p_cycled: Tensor, x_p: Tensor) -> Tensor:
    """Eq. 9: ||G_BA(G_AB(x)) - x||^2 + ||G_AB(G_BA(x_p)) - x_p||^2, as means over pixels."""
    return F.mse_loss(x_cycled.float(), x) + F.mse_loss(p_cycled.float(), x_p)


@dataclass(frozen=True, kw_only=True)
class ViewerScores:
    """What a viewer got wrong, as shares of the variance of what it was asked for.

    Attributes:
        image: error on the image.
        outlines: error on the magnitude of the image's gradient.
    """

    image: Tensor
    outlines: Tensor

    def bounded(self, bound: float) -> Tensor:
        """The reward of a transformation that hides: both errors, none beyond `bound`."""
        return self.image.clamp(max=bound) + self.outlines.clamp(max=bound)


def outlines(images: Tensor) -> Tensor:
    """Magnitude of the luminance gradient, (N, 1, H, W), of float images in [0, 1]."""
    luminance = images.float().mean(dim=1, keepdim=True)
    padded = F.pad(luminance, (1, 1, 1, 1), mode="replicate")
    dx = padded[:, :, 1:-1, 2:] - padded[:, :, 1:-1, :-2]
    dy = padded[:, :, 2:, 1:-1] - padded[:, :, :-2, 1:-1]
    return torch.sqrt(dx.square() + dy.square() + 1e-6)


def viewer_scores(prediction: Tensor, images: Tensor, mean_image: Tensor) -> ViewerScores:
    """Judge a viewer's prediction (N, 4, H, W) of the image and, in the last channel, of its outlines.

    Args:
        prediction: float, about the mean image and the mean outline strength of the batch.
        images: what was hidden, float (N, 3, H, W) in [0, 1].
        mean_image: mean over the training images, (1, 3, H, W) or broadcastable to it.
    """
    prediction = prediction.float()
    target = images - mean_image
    edges = outlines(images)
    edges = edges - edges.mean()
    return ViewerScores(
        image=F.mse_loss(prediction[:, :3], target) / target.square().mean(),
        # The outlines of natural images are a tenth as strong as the images: the same scale for both.
        outlines=F.mse_loss(0.1 * prediction[:, 3:], edges) / edges.square().mean(),
    )


def distillation_loss(student: list[Tensor], teacher: list[Tensor]) -> Tensor:
    """How far a classifier of protected images is from seeing what a plain classifier sees.

    Mean over levels of the squared distance of feature maps over the variance of the teacher's. It needs no labels and
    asks for more than the labels: features of every region, useful for tasks the transformation was not taught.
    """
    losses = []
    for ours, theirs in zip(student, teacher, strict=True):
        theirs = theirs.float()
        scale = (theirs - theirs.mean(dim=(0, 2, 3), keepdim=True)).square().mean()
        losses.append(F.mse_loss(ours.float(), theirs) / (scale + 1e-6))
    return torch.stack(losses).mean()


def frozen(module: nn.Module) -> nn.Module:
    """The module in eval mode, its weights not learned."""
    return module.eval().requires_grad_(False)
