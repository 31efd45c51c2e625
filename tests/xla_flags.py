"""Flags with which XLA compiles quickly, of those that the installed version knows: an unknown one ends the process."""

import importlib.metadata

# Tests compile much and compute little: without LLVM's optimisations they take half the time, and without XLA's fusion
# emitters, which generate more code, compilation takes half of what is left.
QUICK = "--xla_backend_optimization_level=0"
if tuple(map(int, importlib.metadata.version("jaxlib").split(".")[:2])) < (0, 11):  # jaxlib 0.12 has no such flag
    QUICK += " --xla_cpu_use_fusion_emitters=false"
