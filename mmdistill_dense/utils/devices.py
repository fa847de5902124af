"""The device that a command asks for."""

import torch


def device_of(device: str | None) -> str:
    """Return the device of ``--device``, by default a GPU where there is one; refuse one that this machine lacks."""
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    devices = [*(['cuda'] if gpus else []), *(f'cuda:{number}' for number in range(gpus) if gpus > 1), 'cpu']
    if device is None:
        return devices[0]
    try:
        torch.zeros(1, device=device)
    except (AssertionError, RuntimeError) as error:  # torch without CUDA, no GPU of this number, no such name
        reason = str(error).partition('\n')[0].rstrip('.')
        raise ValueError(f'--device {device}: this machine has {", ".join(devices)}. torch says: {reason}.') from error
    return device
