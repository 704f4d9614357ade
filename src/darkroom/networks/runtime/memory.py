"""Memory that networks leave behind, and errors that say it is used up."""


def forget_networks() -> None:
    """Let go of every network that this process built: Keras keeps them until it is told otherwise.

    A network that is still held cannot be trained further.
    """
    import keras

    if keras.backend.backend() == "tensorflow":
        from tensorflow.python.framework import ops

        # Keras sums gradients over the devices, even over one, by an operation with a gradient of its own. TensorFlow
        # keeps such gradients for good, and each the graph of its network, 10 MB for a small one. There is no public
        # way to take them out.
        kept = ops.gradient_registry._registry
        for name in [name for name in kept if name.startswith("CustomGradient-")]:
            del kept[name]
    keras.utils.clear_session(free_memory=True)  # collects garbage too


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that the device's (or the machine's) memory did not suffice."""
    kinds = {kind.__name__ for kind in type(error).__mro__}
    if kinds & {"MemoryError", "ResourceExhaustedError", "OutOfMemoryError"}:  # of Python, TensorFlow and PyTorch
        return True
    signs = ("RESOURCE_EXHAUSTED", "Out of memory", "OUT_OF_MEMORY", "_ALLOC_FAILED")  # of JAX and CUDA
    return any(sign in str(error) for sign in signs)
