"""A transcription of Inception-v3 as FID has it, in NumPy: NCHW, float64, windows instead of convolutions.

Layers draw the arrays that they have not yet got, so a run also tells what a weight file holds.
"""

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view


class NumpyInception:
    def __init__(self, divisor, seed=0):
        self.divisor, self.rng, self.arrays = divisor, np.random.default_rng(seed), {}

    def layer(self, x, name, width, kernel=(1, 1), stride=1, pad=(0, 0)):
        """torchvision's BasicConv2d; `pad` rows above and below, columns left and right."""
        width //= self.divisor
        if f"{name}.conv.weight" not in self.arrays:
            fan_in = x.shape[1] * np.prod(kernel)
            drawn = {
                "conv.weight": self.rng.normal(size=(width, x.shape[1], *kernel)) * np.sqrt(2 / fan_in),
                "bn.weight": self.rng.uniform(0.7, 1.3, width),
                "bn.bias": self.rng.normal(size=width) * 0.3,
                "bn.running_mean": self.rng.normal(size=width) * 0.3,
                "bn.running_var": self.rng.uniform(0.1, 1.5, width),
            }
            self.arrays |= {f"{name}.{part}": array.astype(np.float32) for part, array in drawn.items()}
            self.arrays[f"{name}.bn.num_batches_tracked"] = np.array(7, np.int64)
        weight = self.arrays[f"{name}.conv.weight"].astype(np.float64)
        gain, bias, mean, variance = (
            self.arrays[f"{name}.bn.{part}"].astype(np.float64).reshape(-1, 1, 1)
            for part in ("weight", "bias", "running_mean", "running_var")
        )
        windows = sliding_window_view(np.pad(x, [(0, 0), (0, 0), (pad[0],) * 2, (pad[1],) * 2]), kernel, (2, 3))
        y = np.tensordot(windows[:, :, ::stride, ::stride], weight, ((1, 4, 5), (1, 2, 3))).transpose(0, 3, 1, 2)
        return np.maximum((y - mean) / np.sqrt(variance + 0.001) * gain + bias, 0)

    def mixed_5(self, x, name, pool):
        def layer(h, branch, *arguments, **options):
            return self.layer(h, f"{name}.{branch}", *arguments, **options)

        a = layer(x, "branch1x1", 64)
        b = layer(layer(x, "branch5x5_1", 48), "branch5x5_2", 64, (5, 5), pad=(2, 2))
        c = layer(layer(x, "branch3x3dbl_1", 64), "branch3x3dbl_2", 96, (3, 3), pad=(1, 1))
        c = layer(c, "branch3x3dbl_3", 96, (3, 3), pad=(1, 1))
        return np.concatenate([a, b, c, layer(average(x), "branch_pool", pool)], axis=1)

    def mixed_6a(self, x, name):
        a = self.layer(x, f"{name}.branch3x3", 384, (3, 3), stride=2)
        b = self.layer(x, f"{name}.branch3x3dbl_1", 64)
        b = self.layer(b, f"{name}.branch3x3dbl_2", 96, (3, 3), pad=(1, 1))
        b = self.layer(b, f"{name}.branch3x3dbl_3", 96, (3, 3), stride=2)
        return np.concatenate([a, b, largest(x, 2, 0)], axis=1)

    def mixed_6(self, x, name, inner):
        a = self.layer(x, f"{name}.branch1x1", 192)
        b = self.layer(x, f"{name}.branch7x7_1", inner)
        b = self.layer(b, f"{name}.branch7x7_2", inner, (1, 7), pad=(0, 3))
        b = self.layer(b, f"{name}.branch7x7_3", 192, (7, 1), pad=(3, 0))
        c = self.layer(x, f"{name}.branch7x7dbl_1", inner)
        c = self.layer(c, f"{name}.branch7x7dbl_2", inner, (7, 1), pad=(3, 0))
        c = self.layer(c, f"{name}.branch7x7dbl_3", inner, (1, 7), pad=(0, 3))
        c = self.layer(c, f"{name}.branch7x7dbl_4", inner, (7, 1), pad=(3, 0))
        c = self.layer(c, f"{name}.branch7x7dbl_5", 192, (1, 7), pad=(0, 3))
        return np.concatenate([a, b, c, self.layer(average(x), f"{name}.branch_pool", 192)], axis=1)

    def mixed_7a(self, x, name):
        a = self.layer(self.layer(x, f"{name}.branch3x3_1", 192), f"{name}.branch3x3_2", 320, (3, 3), stride=2)
        b = self.layer(x, f"{name}.branch7x7x3_1", 192)
        b = self.layer(b, f"{name}.branch7x7x3_2", 192, (1, 7), pad=(0, 3))
        b = self.layer(b, f"{name}.branch7x7x3_3", 192, (7, 1), pad=(3, 0))
        b = self.layer(b, f"{name}.branch7x7x3_4", 192, (3, 3), stride=2)
        return np.concatenate([a, b, largest(x, 2, 0)], axis=1)

    def mixed_7(self, x, name, pooled):
        a = self.layer(x, f"{name}.branch1x1", 320)
        b = self.layer(x, f"{name}.branch3x3_1", 384)
        c = self.layer(x, f"{name}.branch3x3dbl_1", 448)
        c = self.layer(c, f"{name}.branch3x3dbl_2", 384, (3, 3), pad=(1, 1))
        outputs = [a]
        for h, branch in ((b, "branch3x3_2"), (c, "branch3x3dbl_3")):
            outputs.append(self.layer(h, f"{name}.{branch}a", 384, (1, 3), pad=(0, 1)))
            outputs.append(self.layer(h, f"{name}.{branch}b", 384, (3, 1), pad=(1, 0)))
        return np.concatenate([*outputs, self.layer(pooled, f"{name}.branch_pool", 192)], axis=1)

    def block(self, name, x):
        """One block, NCHW to NCHW."""
        if name in ("Mixed_5b", "Mixed_5c", "Mixed_5d"):
            return self.mixed_5(x, name, 32 if name == "Mixed_5b" else 64)
        if name in ("Mixed_6a", "Mixed_7a"):
            return (self.mixed_6a if name == "Mixed_6a" else self.mixed_7a)(x, name)
        if name in ("Mixed_7b", "Mixed_7c"):
            return self.mixed_7(x, name, average(x) if name == "Mixed_7b" else largest(x, 1, 1))
        return self.mixed_6(x, name, {"b": 128, "c": 160, "d": 160, "e": 192}[name[-1]])

    def __call__(self, scaled):
        """Images of 299 x 299 pixels, [N, H, W, 3], already scaled, to [N, 2048 / divisor]."""
        x = np.asarray(scaled, np.float64).transpose(0, 3, 1, 2)
        x = self.layer(x, "Conv2d_1a_3x3", 32, (3, 3), stride=2)
        x = self.layer(x, "Conv2d_2a_3x3", 32, (3, 3))
        x = largest(self.layer(x, "Conv2d_2b_3x3", 64, (3, 3), pad=(1, 1)), 2, 0)
        x = self.layer(x, "Conv2d_3b_1x1", 80)
        x = largest(self.layer(x, "Conv2d_4a_3x3", 192, (3, 3)), 2, 0)
        for name in ("5b", "5c", "5d", "6a", "6b", "6c", "6d", "6e", "7a", "7b", "7c"):
            x = self.block(f"Mixed_{name}", x)
        assert x.shape[2:] == (8, 8)
        return x.mean((2, 3))

    def file(self):
        """What a weight file holds of the network, with its 1008 classes."""
        classes = self.rng.normal(size=(1008, 2048 // self.divisor)).astype(np.float32)
        return self.arrays | {"fc.weight": classes, "fc.bias": np.zeros(1008, np.float32)}


def average(x):
    """Of 3x3 pixels, the padding left out."""
    padded = np.pad(x, [(0, 0), (0, 0), (1, 1), (1, 1)], constant_values=np.nan)
    return np.nanmean(sliding_window_view(padded, (3, 3), (2, 3)), axis=(4, 5))


def largest(x, stride, pad):
    """Of 3x3 pixels."""
    padded = np.pad(x, [(0, 0), (0, 0), (pad, pad), (pad, pad)], constant_values=np.nan)
    return np.nanmax(sliding_window_view(padded, (3, 3), (2, 3))[:, :, ::stride, ::stride], axis=(4, 5))


def resized(images, size, half_pixel_centres):
    """Bilinear, one pixel at a time."""
    out = np.empty((len(images), size, size, images.shape[-1]))
    for i in range(size):
        for j in range(size):
            (top, bottom, down), (left, right, across) = (
                nearest(place, size, length, half_pixel_centres)
                for place, length in zip((i, j), images.shape[1:3], strict=True)
            )
            above = images[:, top, left] * (1 - across) + images[:, top, right] * across
            below = images[:, bottom, left] * (1 - across) + images[:, bottom, right] * across
            out[:, i, j] = above * (1 - down) + below * down
    return out


def nearest(place, size, length, half_pixel_centres):
    source = max((place + 0.5) * length / size - 0.5, 0) if half_pixel_centres else place * length / size
    before = int(source)
    return before, min(before + 1, length - 1), source - before
