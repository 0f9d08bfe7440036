"""Key rules of models of texts: Hugging Face's names, fairseq's of RoBERTa and OpenAI's of GPT."""

import re
from collections.abc import Mapping
from types import MappingProxyType

import numpy as np

from passl_sot.nn.position import repeat_positions
from passl_sot.weights.rules import KEY_RULES, TO_BACKBONE, KeyRules, Rules

_PRETRAINING = "a head of the pre-training, which this model does without"
_OTHER_HEAD = "of a head that this model does without"
# Hugging Face's names of heads for other tasks than classification.
_TASKS = r"(cls|lm_head|qa_outputs|multiple_choice_head)\..*"
_OLD_NORMS: Rules = ((r"\.gamma$", ".weight"), (r"\.beta$", ".bias"))  # of files from before 2019
_JOINED = MappingProxyType({"qkv": ("query", "key", "value")})
_TASK_TOKENS = 3  # that fine-tuning adds to GPT's vocabulary: start, delimiter, classify


def _names(
    model: str, blocks: str, parts: Mapping[str, str], of_blocks: Mapping[str, str]
) -> tuple[Rules, Rules]:
    """Rules from another project's names of layers to ours, and back.

    Args:
        model: What all of their names begin with, or lack in files of a model without a head.
        blocks: Their name of the list of blocks.
        parts: Our names of layers to theirs.
        of_blocks: The same within a block.
    """
    there: list[tuple[str, str]] = [(rf"^{model}\.", "")]
    back: list[tuple[str, str]] = []
    for ours, theirs in parts.items():
        there.append((rf"^{re.escape(theirs)}\.", f"{ours}."))
        back.append((rf"^backbone\.{ours}\.", f"{model}.{theirs}."))
    for ours, theirs in of_blocks.items():
        there.append((rf"^{re.escape(blocks)}\.(\d+)\.{re.escape(theirs)}\.", rf"blocks.\1.{ours}."))
        back.append((rf"^backbone\.blocks\.(\d+)\.{re.escape(ours)}\.", rf"{model}.{blocks}.\1.{theirs}."))
    return tuple(there), tuple(back)


_BERT_PARTS = {
    "word_embed": "embeddings.word_embeddings",
    "pos_embed": "embeddings.position_embeddings",
    "type_embed": "embeddings.token_type_embeddings",
    "embed_norm": "embeddings.LayerNorm",
}
_BERT_BLOCK = {
    "attn.query": "attention.self.query",
    "attn.key": "attention.self.key",
    "attn.value": "attention.self.value",
    "attn.proj": "attention.output.dense",
    "norm1": "attention.output.LayerNorm",
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
    "norm2": "output.LayerNorm",
}


class TextRules(KeyRules):
    """What the models of texts have in common: files of pre-training, tables of positions, vocabularies."""

    trained_without_head = True
    # Numbers that count positions, in Hugging Face's older files.
    tables = (r"embeddings\.position_ids",)

    def adapt(self, name: str, array: np.ndarray) -> np.ndarray:
        """A position table of another length, as the backbone's ``resize_positions`` does it."""
        first = self.backbone.first_position
        if name != "pos_embed.weight" or array.ndim != 2 or len(array) <= first:
            return array
        return repeat_positions(array, first, self.backbone.max_positions)


_to_bert, _from_bert = _names("bert", "encoder.layer", _BERT_PARTS, _BERT_BLOCK)


@KEY_RULES.register()
class BERT(TextRules):
    """Hugging Face's BERT, of which SpanBERT is another file, also with the second-order head of its authors.

    That head stands in the place of the pooler.
    """

    joined = _JOINED
    official = (
        *_OLD_NORMS,
        *_to_bert,
        (r"^pooler\.dense\.", "head.dense."),
        (r"^pooler\.", "head."),
        (r"^classifier\.", "head.fc."),
        TO_BACKBONE,
    )
    to_official = (
        *_from_bert,
        (r"^head\.dense\.", "bert.pooler.dense."),
        (r"^head\.fc\.", "classifier."),
        (r"^head\.", "bert.pooler."),
    )
    pointwise = (r"bert\.pooler\.representation\.conv_dr_block\.\d\.0\.weight",)
    left_aside = ((_TASKS, _PRETRAINING), (r"head\.(dense|fc)\.(weight|bias)", _OTHER_HEAD))


_to_roberta, _from_roberta = _names("roberta", "encoder.layer", _BERT_PARTS, _BERT_BLOCK)
_to_fairseq, _ = _names(
    r"(?:de|en)coder",
    "sentence_encoder.layers",
    {"word_embed": "sentence_encoder.embed_tokens", "pos_embed": "sentence_encoder.embed_positions"},
    {
        "attn.query": "self_attn.q_proj",
        "attn.key": "self_attn.k_proj",
        "attn.value": "self_attn.v_proj",
        "attn.proj": "self_attn.out_proj",
        "norm1": "self_attn_layer_norm",
        "mlp.fc1": "fc1",
        "mlp.fc2": "fc2",
        "norm2": "final_layer_norm",
    },
)


@KEY_RULES.register()
class RoBERTa(TextRules):
    """Hugging Face's and fairseq's RoBERTa, whose head has the pooler's layer before the last one."""

    joined = _JOINED
    official = (
        *_OLD_NORMS,
        *_to_roberta,
        # In the head's place, as of BERT; `pooler.dense` in these files has never been trained.
        (r"^pooler\.(?!dense\.)", "head."),
        (r"^classifier\.dense\.", "head.dense."),
        (r"^classifier\.out_proj\.", "head.fc."),
        TO_BACKBONE,
    )
    foreign = MappingProxyType(
        {
            "fairseq": (
                *_to_fairseq,
                (r"^sentence_encoder\.(emb_layer_norm|layernorm_embedding)\.", "embed_norm."),
                (r"^sentence_encoder\.layers\.(\d+)\.self_attn\.in_proj_", r"blocks.\1.attn.qkv."),
                (r"^classification_heads\.[^.]+\.dense\.", "head.dense."),
                (r"^classification_heads\.[^.]+\.out_proj\.", "head.fc."),
                TO_BACKBONE,
            )
        }
    )
    to_official = (
        *_from_roberta,
        (r"^head\.dense\.", "classifier.dense."),
        (r"^head\.fc\.", "classifier.out_proj."),
        (r"^head\.", "roberta.pooler."),
    )
    pointwise = (r"roberta\.pooler\.representation\.conv_dr_block\.\d\.0\.weight",)
    # fairseq's RoBERTa knows no types of texts; where all are of one, that is a row of zeros.
    zeros = (r"type_embed\.weight",)
    left_aside = (
        (_TASKS, _PRETRAINING),
        (r"pooler\.dense\..*", "a pooler that RoBERTa's training never used"),
        (r"(sentence_encoder\.)?version", "fairseq's number of its format"),
        (r"head\.(dense|fc)\.(weight|bias)", _OTHER_HEAD),
    )


_to_gpt, _from_gpt = _names(
    "transformer",
    "h",
    {"word_embed": "tokens_embed", "pos_embed": "positions_embed"},
    {
        "attn.qkv": "attn.c_attn",
        "attn.proj": "attn.c_proj",
        "norm1": "ln_1",
        "mlp.fc1": "mlp.c_fc",
        "mlp.fc2": "mlp.c_proj",
        "norm2": "ln_2",
    },
)


@KEY_RULES.register()
class GPT(TextRules):
    """Hugging Face's and OpenAI's GPT, whose layers multiply from the left, with Paddle's layout."""

    official = (*_to_gpt, (r"^pooler\.", "head."), (r"^score\.", "head.fc."), TO_BACKBONE)
    foreign = MappingProxyType(
        {
            "OpenAI": (
                (r"^model/h(\d+)/", r"h.\1."),
                (r"^model/", ""),
                (r"/", "."),
                (r"\.[wg]$", ".weight"),
                (r"\.b$", ".bias"),
                *_to_gpt,
                TO_BACKBONE,
            )
        }
    )
    to_official = (*_from_gpt, (r"^head\.fc\.", "score."), (r"^head\.", "transformer.pooler."))
    tables = (r"h\.\d+\.attn\.bias",)  # the mask of what a token may see
    pointwise = (r"transformer\.pooler\.representation\.conv_dr_block\.\d\.0\.weight",)
    # Hugging Face's last layer for classes has no bias.
    zeros = (r"head\.fc\.bias",)
    paddle_layout = (r"blocks\.\d+\.(attn\.(qkv|proj)|mlp\.fc\d)\.weight",)
    left_aside = ((_TASKS, _PRETRAINING), (r"head\.fc\.weight", _OTHER_HEAD))

    def extend(self, name: str, array: np.ndarray) -> np.ndarray:
        """A vocabulary without the tokens of tasks, with the model's own new rows for them behind it."""
        wanted, width = self.backbone.word_embed.weight.shape
        if name != "word_embed.weight" or array.ndim != 2 or array.shape[1] != width:
            return array
        if not 0 < wanted - len(array) <= _TASK_TOKENS:
            return array
        new = self.backbone.word_embed.weight[len(array) :].astype("float32").numpy()
        return np.concatenate([array, new.astype(array.dtype)])
