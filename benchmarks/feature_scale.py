"""Print the mean relu1_2 activation over CIFAR-10's training images, the scale of networks/feature_extractor.py."""

import argparse

import torch

from imageveil.images.arrays import load_arrays
from imageveil.networks import feature_extractor


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="cifar10")
    images = load_arrays(parser.parse_args().data, "train").images
    network = feature_extractor.FeatureExtractor()
    total = sum(float(network(part.float() / 255).mean()) * len(part) for part in torch.split(images, 500))
    print(f"{total / len(images) * feature_extractor.MEAN_ACTIVATION:.4f}")


if __name__ == "__main__":
    main()
