"""Free the memory of networks, and recognise errors of exhausted memory."""


def forget_networks() -> None:
    """Free every network that this process built, which Keras otherwise keeps.

    A network that is still referenced cannot be trained further.
    """
    import keras

    if keras.backend.backend() == "tensorflow":
        from tensorflow.python.framework import ops

        # Keras sums gradients over devices, even over one, by an operation with a custom gradient. TensorFlow keeps
        # custom gradients forever, each with the graph of its network, 10 MB for a small one. There is no public way to
        # remove them.
        kept = ops.gradient_registry._registry
        for name in [name for name in kept if name.startswith("CustomGradient-")]:
            del kept[name]
    keras.utils.clear_session(free_memory=True)  # collects garbage too


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error means that the memory of the device or the machine is exhausted."""
    kinds = {kind.__name__ for kind in type(error).__mro__}
    if kinds & {"MemoryError", "ResourceExhaustedError", "OutOfMemoryError"}:  # of Python, TensorFlow and PyTorch
        return True
    signs = ("RESOURCE_EXHAUSTED", "Out of memory", "OUT_OF_MEMORY", "_ALLOC_FAILED")  # of JAX and CUDA
    return any(sign in str(error) for sign in signs)
