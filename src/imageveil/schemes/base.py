"""The contract of a scheme, the registry, and how a scheme is saved and loaded.

A saved scheme is one safetensors file: tensors (weights or key material) and string metadata. No pickle is ever read.
"""

import hashlib
import json
import os
import secrets
import warnings
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib import resources
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from imageveil.errors import RunError, UsageError

FORMAT = "1"


class PublicSchemeWarning(UserWarning):
    """Given when a scheme that ships with the package is opened."""


SCHEMES: dict[str, type["Scheme"]] = {}
"""Every scheme class by the name under which it is saved."""


class Scheme(ABC):
    """Turns plain images into protected images.

    A subclass sets `name`, implements `protect`, `state` and `from_state`, and is registered by being defined.

    Attributes:
        name: the scheme's name in files, records and on the command line.
        label: what records call the scheme: its name, unless a file says otherwise.
        needs_ids: whether `protect` derives a key from every image's id and refuses without ids.
        alignment: a tile of a larger image is protected as the whole image would be only if its offset is a
            multiple of this many pixels.
        public: whether the scheme is shipped with the package, so that anyone can learn to undo it.
        kind: `key`, `network` or `control`: what the secret is.
        reversible: whether the owner can undo it exactly.
        cloud_change: what the cloud has to add to an ordinary classifier.
        published: where the scheme was published.
    """

    name: ClassVar[str]
    label: str
    needs_ids: ClassVar[bool] = False
    kind: ClassVar[str] = "network"
    reversible: ClassVar[bool] = False
    cloud_change: ClassVar[str] = "nothing"
    published: ClassVar[str] = "-"
    alignment: int = 1
    public: bool = False

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "name" in cls.__dict__:
            cls.label = cls.name
            if SCHEMES.get(cls.name, cls).__qualname__ != cls.__qualname__:
                raise ValueError(f"two schemes are called {cls.name!r}")
            SCHEMES[cls.name] = cls

    @abstractmethod
    def protect(
        self, images: Tensor, *, ids: Sequence[str] | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        """Protect a batch.

        Args:
            images: plain images, uint8 (N, 3, H, W), RGB.
            ids: one identity per image, for schemes with a key per image.
            generator: source of randomness for schemes that draw noise. Without it they derive it from their secret
                and the image's content, so that the same image gives the same output.

        Returns:
            Protected images, uint8 (N, 3, H', W'): the size of the plain images, padded to whole blocks by block
            schemes.
        """

    def to(self, device: torch.device) -> Self:
        """Have the scheme's network, if it has one, computed on a device; `protect` takes images from anywhere.

        Args:
            device: where `forward`, for those that have it, then expects its images.

        Returns:
            The scheme itself.
        """
        network = getattr(self, "network", None)
        if isinstance(network, nn.Module):
            network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        return self

    @abstractmethod
    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return tensors and JSON-serialisable metadata from which `from_state` builds an equal scheme."""

    @classmethod
    @abstractmethod
    def from_state(cls, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> Self:
        """Build the scheme that `state` described."""

    def save(self, path: str | os.PathLike[str], *, private: bool = True, replace: bool = True) -> None:
        """Write the scheme to one safetensors file, atomically; readable by its owner only unless `private` is False.

        Raises:
            UsageError: the path names no file, or the file exists and `replace` is False.
            RunError: the file could not be written.
        """
        tensors, metadata = self.state()
        metadata = {**metadata, "sha256": digest(tensors)}
        header = {"imageveil": FORMAT, "scheme": self.name, "metadata": json.dumps(metadata, sort_keys=True)}
        blob = save({k: v.detach().cpu().contiguous() for k, v in tensors.items()} or {"empty": torch.zeros(1)}, header)
        path = Path(path)
        if not path.name:
            raise UsageError(f"'{path}' names no file; give the path of the scheme file to write")
        # A name that nobody can foresee, and O_EXCL: in a shared folder somebody may have put a file or a link there.
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600 if private else 0o644)
            with os.fdopen(descriptor, "wb") as file:
                file.write(blob)
                file.flush()
                os.fsync(file.fileno())
            if replace:
                temporary.replace(path)
            else:
                _put_where_none_is(path, temporary)
        except OSError as error:
            raise RunError(f"cannot write the scheme file {path}: {error.strerror}") from error
        finally:
            with suppress(OSError):  # it is not there, and perhaps its folder is not either
                temporary.unlink()


def _put_where_none_is(path: Path, written: Path) -> None:
    try:
        path.hardlink_to(written)
    except FileExistsError as error:
        raise UsageError(f"{path} exists; whatever was protected with it needs it, so give another path") from error


def digest(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, types, shapes and bytes of all tensors, as hexadecimal."""
    sha = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        sha.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        sha.update(tensor.flatten().view(torch.uint8).numpy().tobytes())
    return sha.hexdigest()


def shipped_schemes() -> list[str]:
    """Names of the scheme files inside the package."""
    folder = resources.files("imageveil") / "assets" / "schemes"
    if not folder.is_dir():
        return []
    return sorted(
        entry.name.removesuffix(".safetensors") for entry in folder.iterdir() if entry.name.endswith(".safetensors")
    )


def resolve_scheme(name_or_path: str | os.PathLike[str]) -> tuple[Path, bool]:
    """Find a scheme file by shipped name or by path.

    Returns:
        The file and whether it is a shipped, hence public, scheme.

    Raises:
        UsageError: there is no such name or file.
    """
    if str(name_or_path) in shipped_schemes():
        return Path(str(resources.files("imageveil") / "assets" / "schemes" / f"{name_or_path}.safetensors")), True
    path = Path(name_or_path)
    try:
        if path.is_file():
            return path, False
    except OSError as error:
        raise UsageError(f"the scheme {path} cannot be reached: {error.strerror}") from error
    if kind := SCHEMES.get(str(name_or_path)):
        how = "train --data D --out RUN" if kind.kind == "network" else f"keygen {name_or_path} FILE"
        raise UsageError(f"{name_or_path!r} is no scheme file; make one with `imageveil {how}` and give that")
    known = ", ".join(shipped_schemes()) or "none"
    raise UsageError(f"there is no scheme {str(name_or_path)!r}: give the path of a scheme file or one of: {known}")


def read_scheme_file(path: Path) -> tuple[dict[str, Tensor], str, dict[str, Any]]:
    """Read tensors, scheme name and metadata of a scheme file and check its digest.

    Raises:
        UsageError: the file is no scheme file, is damaged, or was written by a later version.
    """
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise UsageError(f"{path} is not a scheme file (it could not be read as safetensors)") from error
    if "scheme" not in header or "metadata" not in header:
        raise UsageError(f"{path} is a safetensors file but not a scheme of imageveil")
    if header.get("imageveil") != FORMAT:
        raise UsageError(f"{path} has scheme format {header.get('imageveil')}; this version reads format {FORMAT}")
    try:
        metadata = json.loads(header["metadata"])
    except json.JSONDecodeError:
        metadata = None
    if not isinstance(metadata, dict):
        raise UsageError(f"{path} has damaged metadata; restore the file from a copy")
    if metadata.get("sha256") != digest({} if set(tensors) == {"empty"} else tensors):
        raise UsageError(f"{path} is damaged: its content does not match its SHA-256; restore the file from a copy")
    return tensors, header["scheme"], metadata


def load_scheme(name_or_path: str | os.PathLike[str]) -> Scheme:
    """Open a scheme by shipped name or by the path of a scheme or key file.

    A scheme that ships with the package is public; `Scheme.public` says so and `public_notice` puts it in words.

    Raises:
        UsageError: no such scheme, or the file is damaged or of an unknown kind.
    """
    path, public = resolve_scheme(name_or_path)
    tensors, name, metadata = read_scheme_file(path)
    if name not in SCHEMES:
        raise UsageError(
            f"{path} holds a scheme of the unknown kind {name!r}; a later version of imageveil may read it"
        )
    try:
        scheme = SCHEMES[name].from_state(tensors, metadata)
    except UsageError:
        raise
    except Exception as error:  # whatever a file that was not written by `save` does to a scheme
        raise UsageError(f"{path} holds nothing that {name} can be made of; restore the file from a copy") from error
    scheme.public = public
    if public:
        warnings.warn(public_notice(str(name_or_path)), PublicSchemeWarning, stacklevel=2)
    return scheme


def public_notice(name: str) -> str:
    """One line that says what a shipped scheme cannot do."""
    return (
        f"{name} ships with imageveil and is public: it hides images from view, but anyone who has the package can "
        "learn to undo it. Learn a scheme of your own: imageveil train --data YOUR-IMAGES --out RUN"
    )
