"""A network for small photographs that trains in minutes, based on airbench94.

Source: Jordan (2024), "94% on CIFAR-10 in 3.29 Seconds on a Single GPU", arXiv:2404.00498. Kept: the frozen whitening
convolution, groups of two 3x3 convolutions with pooling first, BatchNorm without scale, the identity in the initial
filters, filters of constant length. Changed for speed on CPUs: ReLU instead of GELU, whose error function costs a third
of the convolutions' time, and a whitening bias that is computed from the data instead of trained, so that no gradient
passes through the widest layer.
"""

from typing import Any, Literal

import keras
import numpy as np
from keras import layers, ops

WHITENING = "whitening"  # the name of the layer that build.initialise_from_data fills
NOISE = keras.initializers.LecunUniform()


def fast(
    images: Any,
    *,
    filters: list[int],
    whitening_kernel_size: int = 2,
    activation: Literal["relu", "gelu", "silu"] = "relu",
) -> Any:
    """Return the features (n, filters[-1]) of a whitening convolution and of one group per entry of `filters`.

    A group is convolution, max-pool, BatchNorm, activation, convolution, BatchNorm, activation; it halves height and
    width. The last layer is a global maximum, divided by 8. With filters (64, 256, 256) and 10 classes the network has
    1,971,338 trained parameters on colour images; edges of 32 pixels become 31, 15, 7 and 3.

    Args:
        images: symbolic (n, H, W, C), scaled to [0, 1].
        filters: width of each group.
        whitening_kernel_size: edge k in pixels of the whitened patches; the layer has 2 k k C filters.
        activation: after each convolution.
    """
    width = 2 * images.shape[-1] * whitening_kernel_size**2
    x = layers.Conv2D(width, whitening_kernel_size, trainable=False, name=WHITENING)(images)
    x = layers.Activation(activation)(x)
    for group in filters:
        x = layers.MaxPooling2D()(_convolution(x, group))
        x = layers.Activation(activation)(_normalisation()(x))
        x = layers.Activation(activation)(_normalisation()(_convolution(x, group)))
    # Divided, so that logits start small; large first steps would cost an epoch.
    return layers.Rescaling(1 / 8)(layers.GlobalMaxPooling2D()(x))


def _convolution(x: Any, filters: int) -> Any:
    """Return a 3x3 convolution whose filters keep the length 1.

    BatchNorm makes the length of a filter irrelevant, but a longer one rotates less at the same step size.
    """
    convolution = layers.Conv2D(
        filters,
        3,
        padding="same",
        use_bias=False,
        kernel_initializer=_partial_identity,
        kernel_constraint=keras.constraints.UnitNorm(axis=[0, 1, 2]),
    )
    features = convolution(x)
    convolution.kernel_initializer = NOISE  # not used any more; the saved model must name only Keras' own
    return features


def _partial_identity(shape: tuple[int, ...], dtype: Any = None) -> Any:
    """Return filters (h, w, C_in, C_out) of which the first C_in copy one channel each; the others are noise."""
    height, width, channels, filters = shape
    copied = np.arange(min(channels, filters))
    identity = np.zeros(shape, np.float32)
    identity[height // 2, width // 2, copied, copied] = 1
    return ops.where(np.arange(filters) < len(copied), identity, NOISE(shape, dtype=dtype))


def _normalisation() -> layers.Layer:
    """Return BatchNorm without scale; the fused one if training computes in less than float32.

    The saved network is in float32 and has only Keras' own layers.
    """
    is_mixed = keras.config.dtype_policy().compute_dtype != "float32"
    layer = FusedBatchNormalization if is_mixed else layers.BatchNormalization
    return layer(momentum=0.6, epsilon=1e-5, scale=False)  # not Keras' 0.99: a run has a few hundred steps


class FusedBatchNormalization(layers.BatchNormalization):
    """BatchNormalization over the last axis whose training step is one operation in TensorFlow.

    Keras computes moments, subtracts, multiplies and adds, each over the whole array; in bfloat16 on CPUs one operation
    is several times as fast for 64 and more channels. It records the unbiased variance, n / (n - 1) times Keras' own.
    Masks are not supported.
    """

    def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        if not training or not self.trainable or keras.backend.backend() != "tensorflow":
            return super().call(inputs, training=training, mask=mask)
        import tensorflow as tf  # keras.ops has no such operation

        outputs, mean, variance = tf.compat.v1.nn.fused_batch_norm(
            inputs,
            scale=ops.convert_to_tensor(self.gamma) if self.scale else ops.ones_like(self.moving_mean),
            offset=ops.convert_to_tensor(self.beta) if self.center else ops.zeros_like(self.moving_mean),
            epsilon=self.epsilon,
            is_training=True,
        )
        for average, value in ((self.moving_mean, mean), (self.moving_variance, variance)):
            average.assign(average * self.momentum + ops.stop_gradient(value) * (1.0 - self.momentum))
        return outputs


def whitening(images: np.ndarray, *, kernel_size: int, epsilon: float = 3e-5) -> tuple[np.ndarray, np.ndarray]:
    """Return kernel (k, k, C, 2 k k C) and bias (2 k k C,) of a convolution that decorrelates patches of images.

    The filters are the eigenvectors of the patches' covariance, divided by the roots of their eigenvalues, and the same
    with the opposite sign; the bias centres the patches (Coates & Ng 2012; Jordan 2024).

    Args:
        images: float32 (n, H, W, C) in [0, 1], a sample of the training images.
        kernel_size: edge k of a patch, in pixels.
        epsilon: added to the eigenvalues, so that rounding errors are not amplified.
    """
    windows = np.lib.stride_tricks.sliding_window_view(images, (kernel_size, kernel_size), axis=(1, 2))
    patches = windows.transpose(0, 1, 2, 4, 5, 3).reshape(-1, kernel_size * kernel_size * images.shape[-1])
    mean = patches.mean(axis=0, dtype=np.float64)
    covariance = (patches.T @ patches).astype(np.float64) / len(patches) - np.outer(mean, mean)
    values, vectors = np.linalg.eigh(covariance)
    directions = vectors / np.sqrt(np.maximum(values, 0) + epsilon)
    directions = np.concatenate([directions, -directions], axis=1)
    kernel = directions.reshape(kernel_size, kernel_size, images.shape[-1], -1)
    return kernel.astype(np.float32), (-mean @ directions).astype(np.float32)
