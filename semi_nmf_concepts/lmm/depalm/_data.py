"""What a DePALM is trained on: image states, captions as token ids, and the order of both."""

from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch

from .._images import to_rgb
from .._prompt import continuation_ids


@dataclass
class Batch:
    """One step's samples.

    Attributes
    ----------
    vision : tensor
        Pixel values, or states of the image encoder where these are kept.
    ids, is_real : tensors of shape (n, length)
        Caption tokens with the end token, padded on the right, and which of them are no padding.
    """

    vision: torch.Tensor
    ids: torch.Tensor
    is_real: torch.Tensor


class Samples:
    """Images and captions of a training run, step by step.

    The samples of a step depend on the seed and the step alone, so that a run that is continued
    sees what an uninterrupted one does.

    Parameters
    ----------
    loaded : LoadedModel
    images : sequence
    references : list of list of str
        Captions of each image, at least one.
    prompt : str
        The rendered prompt.
    batch_size, seed : int
    """

    def __init__(self, loaded, images, references, prompt, batch_size, seed):
        self.loaded, self.images, self.references = loaded, images, references
        self.prompt, self.seed = prompt, seed
        self.batch_size = min(batch_size, len(images))
        self.states = None

    def keep_states(self, progress):
        """Run all images through the frozen encoder, once, and keep what it says of them."""
        blocks = np.arange(0, len(self.images), self.batch_size)
        for start in progress(blocks):
            rows = np.arange(start, min(start + self.batch_size, len(self.images)))
            states = self.loaded.model.encode_images(self._pixels(rows)).cpu()
            if self.states is None:
                self.states = states.new_empty((len(self.images), *states.shape[1:]))
            self.states[rows] = states

    def state_bytes(self):
        """Memory that the states of all images need."""
        states = self.loaded.model.encode_images(self._pixels([0]))
        return states.nbytes * len(self.images)

    def batches(self, start, stop):
        """The batches of the steps from `start` to `stop`, made ready in another thread."""
        with ThreadPoolExecutor(1) as pool:
            waiting = deque()
            for step in range(start, stop):
                waiting.append(pool.submit(self._batch, step))
                if len(waiting) > 2:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()

    def _batch(self, step):
        rows = self._rows(step)
        ids, is_real = self._captions(rows, np.random.default_rng([self.seed, 1, step]))
        vision = self._pixels(rows) if self.states is None else self.states[rows]
        return Batch(vision, ids, is_real)

    def _rows(self, step):
        epoch, position = divmod(step, len(self.images) // self.batch_size)
        order = np.random.default_rng([self.seed, 0, epoch]).permutation(len(self.images))
        return order[position * self.batch_size : (position + 1) * self.batch_size]

    def _pixels(self, rows):
        images = [to_rgb(self.images[int(row)], int(row)) for row in rows]
        pixels = self.loaded.processor.image_processor(images=images, return_tensors="pt")
        return pixels["pixel_values"].to(self.loaded.device, self.loaded.dtype)

    def _captions(self, rows, rng):
        tokenizer = self.loaded.tokenizer
        captions = []
        for row in rows:
            texts = self.references[row]
            text = texts[rng.integers(len(texts))]
            ids = continuation_ids(tokenizer, self.prompt, text)
            captions.append([*ids, tokenizer.eos_token_id])
        lengths = torch.tensor([len(ids) for ids in captions])
        padded = torch.full((len(rows), int(lengths.max())), tokenizer.pad_token_id)
        for i, ids in enumerate(captions):
            padded[i, : len(ids)] = torch.tensor(ids)
        return padded, torch.arange(padded.shape[1]) < lengths[:, None]
