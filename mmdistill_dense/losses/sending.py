"""Copy tensors made on the CPU (random masks, indices) to the device of the maps."""

from torch import Tensor


def to_device(x: Tensor, like: Tensor) -> Tensor:
    """Copy a CPU tensor to the device of another tensor without blocking the CPU; the dtype stays.

    A GPU reads pinned memory while the CPU goes on. From other memory the copy may wait for all launched work, also
    with ``non_blocking=True``. torch keeps the pinned copy until it has been read; ``x`` itself may be freed at once.

    Args:
        x: Tensor of any shape, returned as it is if it is on the device already.
        like: Tensor on the device.

    Returns:
        ``x`` on the device. Change the dtype there: a change during the copy would need memory that is not pinned.
    """
    pinned = x.pin_memory() if like.is_cuda and x.device.type == 'cpu' else x
    return pinned.to(like.device, non_blocking=True)
