"""The state of a training run in one safetensors file."""

import json

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from ..._files import write_atomically

FOLDER = "training"
FILE = "checkpoint.safetensors"
_MOMENTS = ("step", "exp_avg", "exp_avg_sq")  # of AdamW; none before its first step


class Checkpoint:
    """Connector, optimizer and losses of a run after some step.

    Parameters
    ----------
    out : pathlib.Path
        The folder of the run.
    settings : dict
        Everything that the run depends on (JSON types); another run's checkpoint is refused.
    """

    def __init__(self, out, settings):
        self.path = out / FOLDER / FILE
        # As they come back from the file.
        self.settings = json.loads(json.dumps(settings))

    def write(self, connector, optimizer, scaler, losses):
        """Replace the checkpoint."""
        tensors = {"losses": torch.tensor(losses, dtype=torch.float64)}
        for name, weight in connector.named_parameters():
            tensors[f"connector.{name}"] = weight.detach()
            tensors |= {f"{key}.{name}": v for key, v in optimizer.state[weight].items()}
        tensors = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
        about = {"settings": self.settings, "scaler": scaler.state_dict()}
        write_atomically(self.path, save(tensors, {"about": json.dumps(about)}))

    def read(self, connector, optimizer, scaler):
        """Restore what `write` wrote, if it did; returns the losses so far."""
        if not self.path.is_file():
            return []
        try:
            with safe_open(self.path, framework="pt") as file:
                about = json.loads(file.metadata()["about"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"{self.path} is damaged or no checkpoint ({error}). Remove it to begin anew."
            ) from error
        self._check(about["settings"])
        with torch.no_grad():
            for name, weight in connector.named_parameters():
                weight.copy_(tensors[f"connector.{name}"])
                keys = [key for key in _MOMENTS if f"{key}.{name}" in tensors]
                moments = {key: tensors[f"{key}.{name}"] for key in keys}
                # Where the optimizer keeps them: the count of steps on the CPU.
                optimizer.state[weight] = {
                    key: moment if key == "step" else moment.to(weight.device)
                    for key, moment in moments.items()
                }
        scaler.load_state_dict(about["scaler"])
        return tensors["losses"].tolist()

    def _check(self, found):
        other = [name for name, value in self.settings.items() if found.get(name) != value]
        if other:
            name = other[0]
            values = f" ({found.get(name)!r} there, {self.settings[name]!r} here)"
            raise ValueError(
                f"out={str(self.path.parents[1])!r} holds another run: it differs in "
                f"{', '.join(other)}{values}. Continue with the same arguments, or choose another "
                "folder."
            )
