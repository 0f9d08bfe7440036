"""Turns PaddleClas's weights of DeiT, ViT and Swin into this project's, and back.

    python -m ppcls_tools.convert_weights --arch DeiT_tiny_patch16_224 theirs.pdparams ours.pdparams
    python -m ppcls_tools.convert_weights --to-paddleclas -c deit_tiny ours.safetensors theirs.pdparams

`--arch` is PaddleClas's name; `-c` takes a config of this project instead, for other sizes or classes. Every
key of both sides is accounted for; nothing is written if one is not.
"""

import argparse
import io
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from passl_sot.cli.command import guarded
from passl_sot.cli.conversion import convert
from passl_sot.config.yaml_text import dump_yaml
from passl_sot.utils.logger import hush_paddle
from ppcls_tools.architectures import ARCHITECTURES, head_of


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the tool; returns its exit status: 0, 1 where weights don't fit, 2 where a file can't be used."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw, allow_abbrev=False)
    parser.add_argument("src", help="weights: .pdparams, or a checkpoint of this project")
    parser.add_argument("dst", help=".pdparams to write")
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--arch", choices=ARCHITECTURES, metavar="NAME", help="PaddleClas's name of the model")
    which.add_argument("-c", "--config", help="a config or model name of this project")
    parser.add_argument("--num-classes", type=int, default=1000, help="with --arch (default: %(default)s)")
    parser.add_argument("--to-paddleclas", action="store_true", help="from this project to PaddleClas")
    args = parser.parse_args(argv)
    if Path(args.dst).suffix != ".pdparams":
        parser.error(f"dst must end in .pdparams, got {args.dst}")
    hush_paddle()
    with tempfile.TemporaryDirectory() as folder:
        config = args.config or _write_config(args.arch, args.num_classes, Path(folder))
        if not args.to_paddleclas:
            return convert(["--config", config, "--src", args.src, "--dst", args.dst])
        return guarded(lambda: _to_paddleclas(config, args.src, Path(args.dst)))


def _write_config(arch: str, num_classes: int, folder: Path) -> str:
    architecture = ARCHITECTURES[arch]
    model = {"architecture": architecture, "head": head_of(architecture, num_classes)}
    path = folder / f"{arch}.yaml"
    path.write_text(dump_yaml({"model": model}), encoding="utf-8")
    return str(path)


def _to_paddleclas(config: str, src: str, dst: Path) -> None:
    import paddle

    from passl_sot.interop.convert import export_state_dict
    from passl_sot.modeling.schema import read_model
    from passl_sot.utils.files import replace_atomically
    from passl_sot.weights import state
    from passl_sot.weights.checkpoint import CheckpointError, read_weights

    arrays, _ = read_weights(src)
    if dst.exists() and dst.samefile(src):
        raise CheckpointError(f"{dst} is the source itself: give the result another name")
    model = read_model(config).build()
    state.load_model(model, arrays, src)
    own = {name: value.numpy() for name, value in model.state_dict().items()}
    theirs = export_state_dict(model, own, layout="paddle")
    content = io.BytesIO()
    paddle.save({name: paddle.to_tensor(value) for name, value in theirs.items()}, content, protocol=3)
    # PaddleClas's NumPy, 1.24, lacks the module by which NumPy 2 calls arrays; this one both have. Its name
    # stands once in a pickle of this protocol, before all numbers.
    data = content.getvalue().replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n", 1)
    replace_atomically(dst, lambda file: file.write(data))
    print(f"wrote {dst}: {len(theirs)} entries")


if __name__ == "__main__":
    sys.exit(main())
