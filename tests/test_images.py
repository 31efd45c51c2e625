"""Value ranges of images, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mvae_jax import images

BYTES = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)


def test_every_byte_survives_the_way_there_and_back():
    floats = images.to_float(jnp.asarray(BYTES))
    assert floats.dtype == jnp.float32
    np.testing.assert_allclose(floats, BYTES.astype(np.float64) / 127.5 - 1.0, atol=1e-7)
    np.testing.assert_array_equal(images.to_uint8(floats), BYTES)


def test_values_outside_are_clipped():
    np.testing.assert_array_equal(images.to_uint8(jnp.array([-9.0, -1.0, 0.0, 1.0, 9.0])), [0, 0, 128, 255, 255])


def test_the_unit_interval_is_reached_from_bytes_and_from_floats():
    expected = BYTES.astype(np.float64) / 255.0
    from_bytes = images.to_unit_interval(jnp.asarray(BYTES))
    np.testing.assert_allclose(from_bytes, expected, atol=1e-7)
    np.testing.assert_allclose(images.to_unit_interval(images.to_float(jnp.asarray(BYTES))), expected, atol=1e-7)
    np.testing.assert_allclose(images.from_unit_interval(from_bytes), images.to_float(jnp.asarray(BYTES)), atol=1e-7)


@pytest.mark.parametrize("convert", [images.to_float, images.to_unit_interval])
@pytest.mark.parametrize("dtype", ["int32", "bool", "uint16"])
def test_another_integer_type_is_refused(convert, dtype):
    with pytest.raises(ValueError, match=rf"images have dtype {dtype}, expected uint8 in \[0, 255\]"):
        convert(jnp.asarray(BYTES, dtype))


@pytest.mark.parametrize(("convert", "interval"), [(images.to_uint8, "-1"), (images.from_unit_interval, "0")])
@pytest.mark.parametrize("dtype", ["uint8", "int32", "bool"])
def test_what_takes_floats_refuses_integers(convert, interval, dtype):
    with pytest.raises(
        ValueError, match=rf"images have dtype {dtype}, expected floats in \[{interval}, 1\]; `to_float`"
    ):
        convert(jnp.asarray(BYTES, dtype))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
@pytest.mark.parametrize("convert", [images.to_uint8, images.to_unit_interval, images.from_unit_interval])
def test_floats_are_converted_in_float32(convert, dtype):
    with jax.enable_x64(dtype == "float64"):
        given = jnp.linspace(-1, 1, 97, dtype=dtype)
        got, expected = convert(given), convert(given.astype(jnp.float32))
    assert got.dtype == expected.dtype
    np.testing.assert_array_equal(got, expected)


def test_a_batch_of_another_shape_is_refused():
    batch = {"image": jnp.zeros((2, 8, 8, 3), jnp.uint8), "attributes": jnp.zeros((2, 5))}
    images.check_batch(batch, image=(8, 8, 3), attributes=(5,))
    with pytest.raises(ValueError, match=r"batch\['image'\] has shape \(2, 8, 8, 3\); expected \(B, 8, 8, 1\)"):
        images.check_batch(batch, image=(8, 8, 1))
