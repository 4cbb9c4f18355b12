"""Fine-tune MiniCPM-V vision-language models on your own images and conversations.

``import minicpmv`` makes transformers' ``Auto*`` classes, and PEFT's, load MiniCPM-V directories with this package's own
models. Registration waits until transformers itself is imported, which keeps ``minicpmv --help`` and
``minicpmv check`` free of torch.
"""

from __future__ import annotations

from types import ModuleType

import wrapt

__all__ = ["__version__"]

__version__ = "0.1.0"


def _register(_transformers: ModuleType) -> None:
    from minicpmv.registration import register  # inside: it needs torch, which light commands must not load

    register()


# Runs at once if transformers is loaded already, otherwise as soon as somebody imports it. The hook sits on the package
# itself: at that moment none of its parts is half imported.
wrapt.register_post_import_hook(_register, "transformers")
