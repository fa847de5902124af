"""How tensors that are made on the CPU, random masks and places, get to the device of the maps."""

from torch import Tensor


def to_device(x: Tensor, like: Tensor) -> Tensor:
    """Copy a tensor of the CPU to where another one lies, without the CPU waiting; in its own dtype.

    A GPU reads pinned memory while the CPU goes on. From other memory the copy may wait for all that was launched, also
    with ``non_blocking=True``. torch keeps the pinned copy until it was read; ``x`` itself is free at once.

    Args:
        x: Of any shape. One that lies on the device is returned as it is.
        like: Tells the device.

    Returns:
        ``x`` on the device. Convert it there, where it is to have another dtype: on the way that would need a copy in
        memory that is not pinned.
    """
    pinned = x.pin_memory() if like.is_cuda and x.device.type == 'cpu' else x
    return pinned.to(like.device, non_blocking=True)
