#!/usr/bin/env python3
"""Writes videochat_tpo_*.golden: MultiModalLLM_PT of OpenGVLab/TPO, the authors' whole model, at small widths: UMT,
Q-Former, Mistral with peft adapters on all eight targets, task token, box encoder, region head. Its forward() as in
training: embeddings after slots are overwritten, last hidden state, logits, both losses and every gradient, in float64
without dropout.

Made with TPO ed733bd8ce0b, transformers 4.46.3, peft 0.13.2, timm 0.4.12, torch 2.8.0, torchvision 0.23.0:
  python3 videochat_tpo_golden.py --tpo CHECKOUT

What differs from the released files, all of it in load() and make_model():
  - 4096 and 768, written out in two files, become the small widths; the modules that no case reaches (SAM2, CG-DETR,
    pycocotools) are absent, which the released code catches itself, or empty
  - generalized_box_iou and box_iou are called but defined nowhere: torchvision's take their place
  - get_clip_time_instruct is called but defined nowhere: it returns what it gets, the sentences themselves
Their sequences are padded on the right and masked, ours are packed: rows of padding are left out of what is compared.
Theirs are means over the labels and over the boxes of the batch, ours sums with scales: the test sets 1 / count.
Their GIoU term is a mean over the predictions whose corners are in order, or 2 without any, ours counts 2 for each
that is not: the same where all are or none is. None is with the weights as drawn (case "picture"); the other cases add
2 to the biases of x2 and y2.
Sentences of a batch are padded on the left, and positions count from the padding on, so that a shorter sentence has
higher positions there than alone: the file has the positions. The seven added rows are the means of the old ones as in
their build_llm(), which is over when weights are set. (Their add_tokens() would do it too, but called on a model that
has adapters it freezes those of lm_head: transformers gives a resized projection the flag of its base weight.)

Names, weights and the file format are those of make_golden.py; ids and rows are stored as floats, images are not.
"""
import argparse
import json
import os
import pathlib
import sys
import tempfile
import types

import numpy as np
import peft
import torch
import torchvision
import transformers

import language_golden
import public_names
from make_golden import noise, value, write

VERSIONS = (f"OpenGVLab/TPO inference/modeling_videochate.py, transformers {transformers.__version__}, "
            f"peft {peft.__version__}, torch {torch.__version__}, torchvision {torchvision.__version__}")

VOCAB = 29  # pieces of the language model before the seven new ones
NEW = ["<box_begin>", "<time_begin>", "<temp>", "<boxes>", "<track_begin>", "<tracking>", "<track_box>"]
BOX_BEGIN, BOXES, TRACK_BOX = VOCAB, VOCAB + 3, VOCAB + 6
WIDTH, VISION, QFORMER = 20, 8, 12
QUERIES, EXTRA = 3, 2
SLOTS = QUERIES + EXTRA
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"] + list("abcdefgh")  # [DEC] is added to them
LANGUAGE = dict(model_type="mistral", hidden_size=WIDTH, intermediate_size=28, num_hidden_layers=2,
                num_attention_heads=4, num_key_value_heads=2, head_dim=6, rms_norm_eps=1e-5, rope_theta=1e6,
                vocab_size=VOCAB, max_position_embeddings=256, sliding_window=None, tie_word_embeddings=False)
BERT = dict(model_type="bert", vocab_size=len(WORDS), hidden_size=QFORMER, num_hidden_layers=3, num_attention_heads=3,
            intermediate_size=20, max_position_embeddings=9, layer_norm_eps=1e-12, pad_token_id=0)

# A sample is a list: a number is that many pieces of text, "v" the slots of its medium, "t" a box given by the user,
# "b" an announced box; labels begin at "|". texts: sentences for the Q-Former, one a medium.
CASES = {
    "clip": dict(frames=6, samples=[[2, "v", 3, "|", 2, "b", 1, "b", 1], [4, "|", 3], [1, "v", "t", 2, "|", "b", 2]]),
    "clip_text": dict(frames=4, texts=["a c e", "g"], samples=[[1, "v", 2, "|", 3], [3, "v", "|", 2, "b", "b", "b"]]),
    "picture": dict(frames=1, samples=[[1, "v", 4, "|", "b"]]),
    "pictures": dict(frames=1, samples=[[2, "v", 1, "|", 5], [1, "v", 6, "|", 2], [9, "|", 4], [2, "v", "|", 1]]),
    "no_media": dict(frames=0, samples=[[3, "t", 1, "|", 1, "b", 2], [2, "t", "t", 3, "|", 3], [5, "|", "b", "b"]]),
}


def load(checkout, width, qformer):
    """The authors' modules as a package `tpo_peer`, with these widths."""
    sys.modules["pycocotools"] = types.ModuleType("pycocotools")
    sys.modules["pycocotools.mask"] = sys.modules["pycocotools"].mask = types.ModuleType("pycocotools.mask")
    folder = pathlib.Path(checkout) / "inference"
    package = sys.modules["tpo_peer"] = types.ModuleType("tpo_peer")
    package.__path__ = []
    for name in ["model_config", "modeling_vit", "modeling_qformer", "modeling_base", "modeling_videochate"]:
        source = (folder / f"{name}.py").read_text()
        if name == "modeling_base":
            source = source.replace("768", str(qformer))
        if name == "modeling_videochate":
            source = source.replace("4096", str(width))
        module = sys.modules[f"tpo_peer.{name}"] = types.ModuleType(f"tpo_peer.{name}")
        module.__package__ = "tpo_peer"
        exec(compile(source, folder / f"{name}.py", "exec"), module.__dict__)
    videochat = sys.modules["tpo_peer.modeling_videochate"]
    videochat.generalized_box_iou = torchvision.ops.generalized_box_iou
    videochat.box_iou = lambda a, b: (torchvision.ops.box_iou(a, b), None)  # neither is used
    return videochat, sys.modules["tpo_peer.model_config"]


class Vocabulary:
    """What the model asks of the language model's tokenizer."""
    box_token, temp_token, track_token, track_box_token = BOXES, VOCAB + 2, VOCAB + 5, TRACK_BOX

    def __len__(self):
        return VOCAB + len(NEW)

    def convert_tokens_to_ids(self, tokens):
        return [VOCAB + NEW.index(t) for t in tokens]


def ours(name):
    """Public parameter name -> our name, or None for the parts that are not built."""
    if name.startswith("lm."):
        return language_golden.ours(name[3:])
    if name.startswith("qformer."):
        return public_names.qformer(name[len("qformer."):])
    for a, b in [("vision_encoder.encoder.patch_embed.proj", "vision.patch_embed"),
                 ("vision_encoder.encoder", "vision"), ("vision_layernorm", "vision.norm"),
                 ("extra_query_tokens", "connector.extra_queries"), ("query_tokens", "connector.queries"),
                 ("project_up", "connector.project_up"),
                 ("loc_encoder.0", "box_encoder.fc1"), ("loc_encoder.2", "box_encoder.fc2"),
                 ("loc_decoder.0", "heads.region.fc1"), ("loc_decoder.2", "heads.region.fc2"),
                 ("box_token", "task_tokens.box")]:
        if name.startswith(a):
            return b + name[len(a):]
    return None


def in_our_shape(name, p):
    """Patches as rows of (frame, height, width, colour), vectors of one medium as rows."""
    if p.dim() == 5:
        return p.permute(0, 2, 3, 4, 1).reshape(p.shape[0], -1)
    return p.reshape(-1, p.shape[-1]) if name.startswith(("connector.", "task_tokens.")) and p.dim() == 3 else p


def parameters_of(model):
    return [(ours(n), p) for n, p in model.named_parameters() if ours(n)]


def fill(model, gain=1.0):
    """Every weight that we have, as value() says; then the new rows."""
    with torch.no_grad():
        for name, p in parameters_of(model):
            shaped = in_our_shape(name, p)
            v = torch.from_numpy(value(name, tuple(shaped.shape)))
            if shaped.dim() == 2:
                v = v * np.float32(gain)
            if p.dim() == 5:
                v = v.reshape(p.shape[0], *p.shape[2:], p.shape[1]).permute(0, 4, 1, 2, 3)
            p.copy_(v.reshape(p.shape))
        for table in [model.lm.get_input_embeddings().weight, model.lm.get_output_embeddings().weight]:
            table[-len(NEW):] = table[:-len(NEW)].mean(0, keepdim=True)


def make_model(peer, frames, ordered=True, gain=1.0, size=224, patch=16):
    """The authors' model with random weights; its constructor reads two configurations and a vocabulary from disk."""
    videochat, configs = peer
    frames = frames if frames > 1 else 4
    home, here = tempfile.TemporaryDirectory(), os.getcwd()
    os.chdir(home.name)
    try:
        for folder, config in [("mistral", LANGUAGE), ("bert-base-uncased", BERT)]:
            os.mkdir(folder)
            pathlib.Path(folder, "config.json").write_text(json.dumps(config))
        pathlib.Path("bert-base-uncased", "vocab.txt").write_text("\n".join(WORDS))
        config = configs.VideoChatEConfig(model_config=dict(
            vision_encoder=dict(name="vit_l14", img_size=size, patch_size=patch, encoder_embed_dim=VISION,
                                encoder_depth=3, encoder_num_heads=2, drop_path_rate=0.0, num_frames=frames,
                                tubelet_size=1, use_checkpoint=False, checkpoint_num=0, return_index=-2,
                                vit_add_ln=True, pretrained=None),
            bridge=dict(name="qformer", num_query_token=QUERIES, extra_num_query_token=EXTRA,
                        qformer_hidden_dropout_prob=0.0, qformer_attention_probs_dropout_prob=0.0,
                        qformer_drop_path_rate=0.0),
            llm=dict(name="mistral_7b", pretrained_llm_path="mistral", use_lora=True, lora_r=3, lora_alpha=6,
                     lora_dropout=0.0, hidden_size=WIDTH),
            freeze_vision_encoder=False, freeze_bridge=False, freeze_llm=False, pretrained_paths={},
            loss=dict(add_bbox_loss=True)), build_decoder=True, hidden_size=WIDTH)
        model = videochat.MultiModalLLM_PT(config, _tokenizer=Vocabulary())
    finally:
        os.chdir(here)
    model.get_clip_time_instruct = lambda sentences: sentences
    if size != 224:  # the class uses this table for 224 pixels; it is the same function of the module here
        encoder, table = model.vision_encoder.encoder, sys.modules["tpo_peer.modeling_vit"].get_sinusoid_encoding_table
        encoder.pos_embed = table(encoder.patch_embed.num_patches, VISION, 4, frames)
        encoder.img_pos_embed = table(encoder.patch_embed.num_patches // frames, VISION)
    model = model.double().train()
    fill(model, gain)
    if ordered:
        model.loc_decoder[2].bias.data[2:] += 2
    return model


class Batch:
    """The samples of a case as the authors' padded batch and as our packed arrays."""

    def __init__(self, name, samples, frames, texts=None, size=224):
        rows = [self.row(f"{name}{i}", s) for i, s in enumerate(samples)]
        longest, lengths = max(len(r) for r in rows), [len(r) for r in rows]
        ids, labels, visual = (torch.full((len(rows), longest), v) for v in (0, -100, 0))
        for i, row in enumerate(rows):
            for j, (token, label, kind) in enumerate(row):
                ids[i, j], labels[i, j], visual[i, j] = token, label, kind == "v"
        mask = torch.arange(longest)[None] < torch.tensor(lengths)[:, None]
        self.mask, flat = mask, ids[mask]
        boxes = [self.boxes(f"{name}.boxes{i}", int((ids[i] == BOXES).sum())) for i in range(len(rows))]
        given = self.boxes(f"{name}.given", int((ids == TRACK_BOX).sum()))
        media = sum("v" in s for s in samples)
        following = torch.cat([labels[:, 1:], torch.full((len(rows), 1), -100)], 1)[mask]
        self.arguments = dict(input_ids=ids, attention_mask=mask.long(), labels=labels)
        self.arrays = dict(lengths=lengths, tokens=flat, targets=following,
                           visual_rows=(visual[mask] == 1).nonzero().flatten(),
                           region_rows=(flat == BOXES).nonzero().flatten(), region_targets=torch.cat(boxes),
                           box_in_rows=(flat == TRACK_BOX).nonzero().flatten(), box_in=given, media=[media])
        if self.arrays["region_rows"].numel():
            self.arguments["output_boxes"] = boxes
        if given.numel():
            self.arguments["input_boxes"] = [given]  # they take the first entry for the whole batch
        if media:
            what = "image" if frames == 1 else "video"
            pixels = torch.from_numpy(noise(f"{name}.images", (media, frames, size, size, 3))).double()
            self.arguments |= {what: pixels.permute(0, 1, 4, 2, 3), f"{what}_idx": visual}
        if texts:
            self.arguments["text_input"] = texts

    @staticmethod
    def row(name, sample):
        draw = iter((noise(name, (64,)) + 1) * (VOCAB / 2))
        out, answer = [], False
        for item in sample:
            if item == "|":
                answer = True
                continue
            pieces = {"v": [(0, "v")] * SLOTS, "t": [(TRACK_BOX, "t")], "b": [(BOX_BEGIN, ""), (BOXES, "b")]}.get(item)
            for token, kind in pieces or [(int(next(draw)), "") for _ in range(item)]:
                out.append((token, token if answer else -100, kind))
        return out

    @staticmethod
    def boxes(name, n):
        """x1, y1 in [0, 0.4), x2, y2 in [0.5, 0.9)."""
        u = torch.from_numpy(noise(name, (n, 4)))
        return (0.2 + 0.2 * u + torch.tensor([0, 0, 0.5, 0.5])).double()


def case(peer, name, c):
    model = make_model(peer, c["frames"], ordered=name != "picture")
    batch = Batch(name, **c)
    seen = {}
    pad, language, box_loss = model.pad_text_embeds, model.lm.forward, model.box_loss

    def checked(boxes, targets):
        b = torch.cat(boxes)
        assert torch.all((b[:, 2:] >= b[:, :2]).all(1) == (name != "picture"))
        return box_loss(boxes, targets)

    def keep(key, result, get):
        seen[key] = get(result).detach().clone()
        return result

    model.pad_text_embeds = lambda *a, **k: keep("embeddings", pad(*a, **k), lambda x: x[batch.mask])
    model.lm.forward = lambda *a, **k: keep("lm", language(*a, **k), lambda o: o.loss.reshape(1))
    model.box_loss = lambda *a: keep("region", checked(*a), lambda x: x.reshape(1))
    out = model(**batch.arguments)
    out.loss.backward()
    arrays = dict(batch.arrays) | seen
    arrays |= {"hidden": out.hidden_states[-1][batch.mask], "logits": out.logits[batch.mask],
               "total": out.loss.reshape(1)}
    if c.get("texts"):
        text = model.qformer_tokenizer(c["texts"], padding="longest", return_tensors="pt")
        mask = text.attention_mask.bool()
        arrays |= {"text_lengths": mask.sum(1), "text_ids": text.input_ids[mask],
                   "text_positions": mask.nonzero()[:, 1]}
    # Nothing reads the last layer's texts: their gradients are zeros there, and do not exist here.
    arrays |= {"grad." + n: in_our_shape(n, p.grad) for n, p in parameters_of(model)
               if p.grad is not None and p.grad.any()}
    write(f"videochat_tpo_{name}.golden", VERSIONS, {k: np.asarray(v.detach() if torch.is_tensor(v) else v, np.float64)
                                                     for k, v in arrays.items() if len(v)})


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tpo", required=True, help="a checkout of OpenGVLab/TPO")
    peer = load(parser.parse_args().tpo, WIDTH, QFORMER)
    torch.manual_seed(0)
    for name, c in CASES.items():
        case(peer, name, c)


if __name__ == "__main__":
    sys.exit(main())
