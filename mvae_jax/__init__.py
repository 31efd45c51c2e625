"""Generative autoencoders in JAX. Import the room you need: `from mvae_jax import losses`."""

__version__ = "0.1.0"
