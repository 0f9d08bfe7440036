"""`tools/convert_torch.py`."""

from pathlib import Path

from passl_sot.cli.command import command, guarded, make_parser, prepare


@command
def convert(argv: list[str] | None = None) -> int:
    """`tools/convert_torch.py`: converts weights from PyTorch to Paddle, or back."""
    does = "Convert weights between PyTorch and this project; PyTorch is not needed."
    parser = make_parser("convert", does)
    add = parser.add_argument
    kinds = ".pth, .bin, .safetensors, .npz, .pdparams, the folder of OpenAI's GPT, or a published name (gpt)"
    add("--src", required=True, metavar="FILE", help=kinds)
    add("--dst", required=True, metavar="FILE", help=".pdparams to write; a card (.json) goes beside it")
    add("--key", help="which state dict of the file: model, state_dict, state_dict_ema ...")
    classes = "classes; the last layers are new if the file has others"
    add("--num-classes", type=int, metavar="N", help=classes)
    add("--verify", metavar="NPZ", help="file with input and the logits that the result must give for it")
    add("--tolerance", type=float, help="of --verify, times max(1, std); default 1e-5 (1e-8 for logits_f64)")
    add("--license", default="not stated", metavar="TEXT", help="licence of the weights, for the card")
    add("--to-torch", action="store_true", help="from .pdparams to official names in .safetensors")
    args = parser.parse_args(argv)
    # PyTorch's users read safetensors; a pickle of ours they would have to trust.
    wanted = ".safetensors" if args.to_torch else ".pdparams"
    if Path(args.dst).suffix != wanted:
        parser.error(f"--dst must end in {wanted}, got {args.dst}")
    if args.num_classes is not None:
        if args.num_classes < 1:
            parser.error("--num-classes must be at least 1")
        args.override.append(f"model.head.num_classes={args.num_classes}")
    prepare(args)

    def run() -> None:
        from passl_sot.interop.tool import convert_file
        from passl_sot.modeling.schema import read_model
        from passl_sot.published.store import local_source
        from passl_sot.zoo import find_config

        args.src = local_source(args.src)
        convert_file(args, find_config(args.config).stem, read_model(args.config, args.override))

    return guarded(run)
