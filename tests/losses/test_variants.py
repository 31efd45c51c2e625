"""Every public loss through chex's variants: with and without jit, on a device and from the host, under pmap."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import parameterized
from loss_table import ARRAYS, BATCH, LOSSES


class VariantsTest(chex.TestCase):
    """Of conftest.py's CPU devices there are several: the variant of one device alone would be skipped."""

    @chex.variants(with_jit=True, without_jit=True, with_device=True, without_device=True, with_pmap=True)
    @parameterized.parameters(*sorted(ARRAYS))
    def test_a_loss_is_the_same_finite_trees_in_one_trace(self, name):
        chex.clear_trace_counter()
        compiled = self.variant(chex.assert_max_traces(lambda *arrays: LOSSES[name](*arrays), n=1))
        first = compiled(*ARRAYS[name])
        halved = compiled(*(array / 2 for array in ARRAYS[name]))
        for result, arrays in ((first, ARRAYS[name]), (halved, [array / 2 for array in ARRAYS[name]])):
            chex.assert_tree_all_finite(result)
            chex.assert_tree_shape_prefix(result, (BATCH,))
            chex.assert_type(jax.tree.leaves(result), jnp.float32)
            chex.assert_trees_all_close(result, LOSSES[name](*arrays), rtol=1e-5, atol=1e-5)

    @chex.variants(with_pmap=True)
    def test_devices_are_several(self):
        assert jax.device_count() > 1
        count = self.variant(lambda x: jax.lax.psum(x, "i"))(np.float32(1))
        assert count == jax.device_count()
