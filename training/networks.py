"""Scores by networks whose weights a user downloads (LPIPS, FID, face embedding), loaded from a path."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mytalk.errors import BadInput
from mytalk.types import F32, U8

BATCH = 16
FACE_PX = 112  # side of face-recognition pictures
SYNC_PX = 224  # side of SyncNet's pictures
# where face recognition expects left eye, right eye, nose tip and mouth corners, in pixels
ARCFACE_POINTS = ((38.29, 51.70), (73.53, 51.50), (56.03, 71.74), (41.55, 92.37), (70.73, 92.20))
LPIPS_SHIFT, LPIPS_SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
ALEX = ((3, 64, 11, 4, 2), (64, 192, 5, 1, 2), (192, 384, 3, 1, 1), (384, 256, 3, 1, 1), (256, 256, 3, 1, 1))
ALEX_NAMES = ("features.0", "features.3", "features.6", "features.8", "features.10")


def load_tensors(path: Path, what: str) -> dict[str, Tensor]:
    """A state dict from a file; ``BadInput`` with one line when it is not one (nothing is unpickled)."""
    if not path.is_file():
        raise BadInput(f"{path}: no such file ({what})")
    try:
        raw: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise BadInput(f"{path}: not weights of {what} ({type(error).__name__})") from error
    if not isinstance(raw, dict):
        raise BadInput(f"{path}: not weights of {what}")
    return {key: value for key, value in raw.items() if isinstance(value, Tensor)}


def batches(pictures: U8, size: int = BATCH) -> list[Tensor]:
    """Pictures uint8 [F, H, W, 3] as float32 [B, 3, H, W], 0..255."""
    return [
        torch.from_numpy(np.ascontiguousarray(pictures[i : i + size])).permute(0, 3, 1, 2).float()
        for i in range(0, len(pictures), size)
    ]


class Lpips(nn.Module):
    """LPIPS (Zhang et al. 2018) on AlexNet: mean over a clip, 0 for equal pictures.

    weights: torchvision's AlexNet file. heads: the 1×1 weights of the `lpips` package (its alex.pth), None:
    those that come with torchmetrics.
    """

    def __init__(self, weights: Path, heads: Path | None = None) -> None:
        super().__init__()
        stored = load_tensors(weights, "AlexNet")
        self.convolutions = nn.ModuleList(nn.Conv2d(i, o, k, s, p) for i, o, k, s, p in ALEX)
        linear = load_tensors(heads or _torchmetrics_heads(), "LPIPS")
        try:
            for layer, name in zip(self.convolutions, ALEX_NAMES, strict=True):
                layer.load_state_dict({"weight": stored[f"{name}.weight"], "bias": stored[f"{name}.bias"]})
            self.heads = [linear[f"lin{n}.model.1.weight"] for n in range(len(ALEX))]
        except (KeyError, RuntimeError) as error:
            raise BadInput(f"{weights}: not torchvision's AlexNet ({error})") from error
        self.eval().requires_grad_(False)

    def _features(self, x: Tensor) -> list[Tensor]:
        shift, scale = (torch.tensor(v)[None, :, None, None] for v in (LPIPS_SHIFT, LPIPS_SCALE))
        x, out = (x / 127.5 - 1 - shift) / scale, []
        for number, layer in enumerate(self.convolutions):
            if number in (1, 2):
                x = nn.functional.max_pool2d(x, 3, 2)
            x = torch.relu(layer(x))
            out.append(x / (x.square().sum(dim=1, keepdim=True).sqrt() + 1e-10))
        return out

    def forward(self, shown: U8, true: U8) -> float:
        """Mean distance of two clips uint8 [F, H, W, 3]."""
        total = 0.0
        for a, b in zip(batches(shown), batches(true), strict=True):
            for head, x, y in zip(self.heads, self._features(a), self._features(b), strict=True):
                apart = nn.functional.conv2d((x - y).square(), head)
                total += float(apart.mean(dim=(1, 2, 3)).sum())
        return total / len(true)


def _torchmetrics_heads() -> Path:
    import torchmetrics.functional.image as package

    return Path(package.__path__[0]) / "lpips_models" / "alex.pth"


class FidFeatures:
    """Pool features of Inception v3: a TorchScript file, or pytorch-fid's weights where that is installed."""

    def __init__(self, weights: Path) -> None:
        if not weights.is_file():
            raise BadInput(f"{weights}: no such file (Inception for FID)")
        self._features = _scripted(weights) or _pytorch_fid(weights)

    def __call__(self, pictures: U8) -> F32:
        """Features float32 [F, D] of pictures uint8 [F, H, W, 3]."""
        with torch.no_grad():
            rows = [self._features(batch) for batch in batches(pictures)]
        return torch.cat(rows).numpy()


def _scripted(weights: Path) -> Callable[[Tensor], Tensor] | None:
    try:
        net = torch.jit.load(str(weights), map_location="cpu").eval()
    except RuntimeError:
        return None  # not TorchScript

    def features(batch: Tensor) -> Tensor:
        try:
            out = net(batch.to(torch.uint8), return_features=True)
        except (RuntimeError, TypeError):  # a script without that option takes pictures alone
            out = net(batch)
        return out.flatten(1).float()

    return features


def _pytorch_fid(weights: Path) -> Callable[[Tensor], Tensor]:
    try:
        from pytorch_fid.inception import InceptionV3, fid_inception_v3
    except ImportError as error:
        raise BadInput(
            f"{weights}: not TorchScript, and pytorch-fid, which reads other weights, is not installed"
        ) from error
    net = InceptionV3([InceptionV3.BLOCK_INDEX_BY_DIM[2048]], use_fid_inception=False)
    inner = fid_inception_v3()
    inner.load_state_dict(load_tensors(weights, "Inception for FID"))
    del net

    def features(batch: Tensor) -> Tensor:
        return inner(batch / 127.5 - 1).flatten(1)

    return features


def frechet_distance(a: F32, b: F32) -> float:
    """Distance of the Gaussians fitted to two sets of features [n, D]: |Δmean|² + tr(A + B − 2 √(A B))."""
    mean = np.square(a.mean(axis=0, dtype=np.float64) - b.mean(axis=0, dtype=np.float64)).sum()
    first, second = (np.atleast_2d(np.cov(x.astype(np.float64), rowvar=False)) for x in (a, b))
    # √(AB) has the eigenvalues' roots; they are real and not negative up to rounding
    roots = np.sqrt(np.maximum(np.linalg.eigvals(first @ second).real, 0)).sum()
    return float(mean + np.trace(first) + np.trace(second) - 2 * roots)


class FaceEmbedder:
    """A face-recognition network as ONNX: RGB 112×112, (x − 127.5) / 127.5, [B, 3, 112, 112] → [B, E]."""

    def __init__(self, path: Path) -> None:
        import onnxruntime

        if not path.is_file():
            raise BadInput(f"{path}: no such file (face embedding)")
        try:
            self._session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        except Exception as error:
            raise BadInput(f"{path}: not a readable ONNX file ({type(error).__name__})") from error
        self._input = self._session.get_inputs()[0].name

    def embed(self, faces: U8) -> F32:
        """Unit vectors float32 [F, E] of aligned faces uint8 [F, 112, 112, 3]."""
        rows = [
            self._session.run(None, {self._input: ((batch - 127.5) / 127.5).numpy()})[0]
            for face in faces
            for batch in batches(face[None])
        ]
        out = np.concatenate(rows).astype(np.float32)
        return out / np.maximum(np.linalg.norm(out, axis=1, keepdims=True), 1e-9)

    def similarity(self, shown: U8, true: U8) -> float:
        """Mean cosine of two clips' faces, uint8 [n, 112, 112, 3] each."""
        return float((self.embed(shown) * self.embed(true)).sum(axis=1).mean())
