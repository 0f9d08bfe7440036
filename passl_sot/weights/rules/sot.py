"""Key rules of SoT and So-ViT (jiangtaoxie/SoT)."""

from passl_sot.weights.rules import KEY_RULES
from passl_sot.weights.rules.base import TO_BACKBONE, KeyRules


@KEY_RULES.register()
class SoT(KeyRules):
    """The head is called ``classifier`` there."""

    official = ((r"^classifier\.", "head."), TO_BACKBONE)
    to_official = ((r"^head\.", "classifier."), (r"^backbone\.", ""))
    pointwise = (r"classifier\.representation\.conv_dr_block\.\d\.0\.weight",)  # So-ViT's head
    input_weights = ("visual_tokens.tokens.stem.0.weight", "visual_tokens.tokens.proj.weight")
