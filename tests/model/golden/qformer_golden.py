#!/usr/bin/env python3
"""Writes qformer.golden and qformer_text.golden: the Q-Former of OpenGVLab/Ask-Anything, video_chat2/models/blip2/
Qformer.py, with its query tokens and the linear layer that VideoChat2 puts after it, in float64 without dropout: output
and every gradient. With text, the public code pads to one length and masks; here each text has its own.

Made with transformers 4.46.3, torch 2.8.0, Ask-Anything 4dd8210b0303. Run by hand:
  python3 qformer_golden.py --qformer CHECKOUT/video_chat2/models/blip2/Qformer.py
"""
import argparse
import importlib.util
import sys

import torch

from make_golden import given, noise, weight, write_case
from public_names import qformer as ours

LAYERS, WIDTH, HEADS, HIDDEN, VISION, OUT = 4, 12, 3, 20, 10, 14
QUERIES, EXTRA, VOCAB, POSITIONS = 3, 2, 17, 9
MEDIA, TOKENS = 3, 7
TEXTS = [4, 0, 2]


def case(module, with_text, dtype, rounded):
    config = module.BertConfig(
        vocab_size=VOCAB, hidden_size=WIDTH, num_hidden_layers=LAYERS, num_attention_heads=HEADS,
        intermediate_size=HIDDEN, max_position_embeddings=POSITIONS, hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0, layer_norm_eps=1e-12)
    config.encoder_width, config.add_cross_attention, config.cross_attention_freq = VISION, True, 2
    config.query_length, config.drop_path_list = QUERIES, [0.0] * LAYERS
    bert = module.BertLMHeadModel(config=config)
    bert.cls = None
    if not with_text:  # as the public code does
        bert.bert.embeddings.word_embeddings = None
        bert.bert.embeddings.position_embeddings = None
        for layer in bert.bert.encoder.layer:
            layer.output = layer.intermediate = None
    queries = torch.nn.Parameter(torch.zeros(QUERIES, WIDTH))
    extra = torch.nn.Parameter(torch.zeros(EXTRA, WIDTH))
    up = torch.nn.Linear(WIDTH, OUT)
    named = [(ours(n), p) for n, p in bert.named_parameters()]
    named += [("connector.queries", queries), ("connector.extra_queries", extra),
              ("connector.project_up.weight", up.weight), ("connector.project_up.bias", up.bias)]
    bert.to(dtype), up.to(dtype)
    queries.data, extra.data = queries.data.to(dtype), extra.data.to(dtype)
    with torch.no_grad():
        for name, p in named:
            p.copy_(weight(name, tuple(p.shape), rounded))
    vision = given("vision", (MEDIA, TOKENS, VISION), rounded).to(dtype).requires_grad_()
    both = torch.cat([queries, extra])[None].expand(MEDIA, -1, -1)
    more = {}
    if with_text:
        ids, mask = torch.zeros(MEDIA, max(TEXTS), dtype=torch.long), torch.zeros(MEDIA, max(TEXTS))
        for i, n in enumerate(TEXTS):
            # Not id 0, the padding, whose row of the table gets no gradient in the public code.
            ids[i, :n] = torch.from_numpy(((noise(f"text{i}", (n,)) + 1) * (VOCAB - 1) / 2).astype("int64") + 1)
            mask[i, :n] = 1
        more = {"input_ids": ids, "attention_mask": torch.cat([torch.ones(MEDIA, QUERIES + EXTRA), mask], 1)}
    out = bert.bert(query_embeds=both, encoder_hidden_states=vision,
                    encoder_attention_mask=torch.ones(MEDIA, TOKENS, dtype=torch.long), return_dict=True, **more)
    y = up(out.last_hidden_state[:, :QUERIES + EXTRA]).reshape(-1, OUT)
    y.backward(given("dy", tuple(y.shape), rounded).to(dtype))
    arrays = {"output": y, "vision_grad": vision.grad}
    # Nothing reads the last layer's texts: their gradients are zeros there, and do not exist here.
    return arrays | {"grad." + n: p.grad for n, p in named if p.grad is not None and p.grad.any()}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--qformer", required=True, help="Qformer.py of a checkout of OpenGVLab/Ask-Anything")
    spec = importlib.util.spec_from_file_location("qformer", parser.parse_args().qformer)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    import transformers
    versions = (f"OpenGVLab/Ask-Anything video_chat2/models/blip2/Qformer.py, transformers {transformers.__version__}, "
                f"torch {torch.__version__}")
    torch.manual_seed(0)
    for name, text in {"qformer": False, "qformer_text": True}.items():
        write_case(name, versions, lambda dtype, rounded: case(module, text, dtype, rounded))


if __name__ == "__main__":
    sys.exit(main())
