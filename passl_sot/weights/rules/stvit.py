"""Key rules of STViT (hhb072/STViT)."""

from passl_sot.weights.rules import KEY_RULES
from passl_sot.weights.rules.base import TO_BACKBONE, KeyRules


@KEY_RULES.register()
class STViT(KeyRules):
    """Frozen kernels that are index tables here, and 1×1 convolutions that are Linears."""

    official = ((r"^head\.", "head.fc."), TO_BACKBONE)
    tables = (r".*\.(un)?fold\.weights",)
    pointwise = (
        r".*\.stoken_refine\.(qkv|proj)\.weight",
        r".*\.mlp\d?\.fc\d\.weight",
        r"proj\.weight",
    )
    input_weights = ("patch_embed.proj.0.weight",)
