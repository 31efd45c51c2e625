"""Commands of `mvae-jax`: a module each, with `main(arguments) -> exit status`; the table is in `mvae_jax.__main__`."""
