"""Writes a checkpoint with the names and shapes of a public one and random bytes.

usage: official_layout.py OUT [--layout NAME] [--size full|nano] [--values bits|normal] [--shard-bytes N]
       official_layout.py --list [--layout NAME] [--size full|nano]    names and shapes, one tensor a line
       official_layout.py --names [--layout NAME]  public names, and ours under which the goldens equal them
       official_layout.py --check          compares names, counts and sizes with what is public; prints both

Layouts: videochat_tpo (OpenGVLab/VideoChat-TPO), videochat2_mistral (OpenGVLab/VideoChat2_stage3_Mistral_7B), mistral (mistralai/Mistral-7B-Instruct-v0.2), bert
(google-bert/bert-base-uncased), llava_ov (lmms-lab/llava-onevision-qwen2-7b-ov). full is the released size: of
videochat_tpo 2,594 tensors and 16,202,736,564 bytes, all bf16 but for the position ids. nano has the same names at the
sizes of official_nano.textproto and official_nano_llava.textproto. Names and sizes of videochat_tpo come from the
public index file (model.safetensors.index.json) and the public model sources, those of llava_ov from the public
sources and configurations of LLaVA-NeXT, SigLIP and Qwen2. Values are random bits, NaNs among them, or, to train from,
normal with deviation 0.02 and gains of norms near 1.
"""
import argparse
import array
import json
import math
import os
import random
import re
import struct
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "model", "golden"))
import public_names  # noqa: E402

# n: layers; the other letters as in the model: C width, F hidden width, P patch, V vocabulary.
FULL = {"vision": {"n": 23, "C": 1024, "F": 4096, "P": 16},
        "qformer": {"n": 12, "C": 768, "F": 3072, "V": 30523, "positions": 512, "queries": (32, 64)},
        "language": {"n": 32, "C": 4096, "F": 14336, "kv": 1024, "V": 32007, "r": 16},
        "region": 2048, "box": 2048, "divide": 1,
        "llava": {"vision": {"n": 26, "C": 1152, "F": 4304, "P": 14, "positions": 729},
                  "language": {"n": 28, "C": 3584, "F": 18944, "kv": 512, "V": 152064}}}
NANO = {"vision": {"n": 1, "C": 32, "F": 64, "P": 8},
        "qformer": {"n": 2, "C": 24, "F": 48, "V": 31, "positions": 16, "queries": (4, 3)},
        "language": {"n": 2, "C": 48, "F": 64, "kv": 24, "V": 407, "r": 4},
        "region": 32, "box": 128, "divide": 32,
        "llava": {"vision": {"n": 1, "C": 32, "F": 64, "P": 8, "positions": 16},
                  "language": {"n": 2, "C": 48, "F": 64, "kv": 24, "V": 896}}}


class Names:
    """Collects (name, shape); the shapes of parts that are not scaled by sizes are divided."""

    def __init__(self, divide):
        self.shapes, self.divide = {}, divide

    def put(self, name, *shape):
        assert name not in self.shapes, name
        self.shapes[name] = shape

    def linear(self, name, out, *inner):
        self.put(name + ".weight", out, *inner)
        self.put(name + ".bias", out)

    def norm(self, name, width):
        self.linear(name, width)

    def mlp(self, name, *widths):
        for i, (a, b) in enumerate(zip(widths, widths[1:])):
            self.linear("%s.layers.%d" % (name, i), b, a)


def vision(n, s):
    C, F, P = s["C"], s["F"], s["P"]
    n.linear("vision_encoder.encoder.patch_embed.proj", C, 3, 1, P, P)
    for i in range(s["n"]):
        b = "vision_encoder.encoder.blocks.%d." % i
        n.norm(b + "norm1", C), n.norm(b + "norm2", C)
        n.put(b + "attn.qkv.weight", 3 * C, C), n.put(b + "attn.q_bias", C), n.put(b + "attn.v_bias", C)
        n.linear(b + "attn.proj", C, C), n.linear(b + "mlp.fc1", F, C), n.linear(b + "mlp.fc2", C, F)
    n.norm("vision_layernorm", C)


def qformer(n, s, vision_width, D):
    C, F = s["C"], s["F"]
    e = "qformer.bert.embeddings."
    n.put(e + "word_embeddings.weight", s["V"], C), n.put(e + "position_embeddings.weight", s["positions"], C)
    n.put(e + "position_ids", 1, s["positions"]), n.norm(e + "LayerNorm", C)
    for i in range(s["n"]):
        b = "qformer.bert.encoder.layer.%d." % i
        for kind, inner in [("attention", C)] + [("crossattention", vision_width)] * (i % 2 == 0):
            n.linear(b + kind + ".self.query", C, C)
            n.linear(b + kind + ".self.key", C, inner), n.linear(b + kind + ".self.value", C, inner)
            n.linear(b + kind + ".output.dense", C, C), n.norm(b + kind + ".output.LayerNorm", C)
        for kind in ("", "_query"):
            n.linear(b + "intermediate%s.dense" % kind, F, C), n.linear(b + "output%s.dense" % kind, C, F)
            n.norm(b + "output%s.LayerNorm" % kind, C)
    n.put("query_tokens", 1, s["queries"][0], C), n.put("extra_query_tokens", 1, s["queries"][1], C)
    n.linear("project_up", D, C), n.linear("project_down", C, D), n.linear("merge_proj", D, 4 * C)


def language(n, s):
    D, F, r = s["C"], s["F"], s["r"]

    def lora(name, out, inner):
        n.put(name + ".base_layer.weight", out, inner)
        n.put(name + ".lora_A.default.weight", r, inner), n.put(name + ".lora_B.default.weight", out, r)

    m = "lm.base_model.model."
    n.put(m + "model.embed_tokens.weight", s["V"], D)
    for i in range(s["n"]):
        b = m + "model.layers.%d." % i
        for name, out in (("q", D), ("k", s["kv"]), ("v", s["kv"]), ("o", D)):
            lora(b + "self_attn.%s_proj" % name, out, D)
        lora(b + "mlp.gate_proj", F, D), lora(b + "mlp.up_proj", F, D), lora(b + "mlp.down_proj", D, F)
        n.put(b + "input_layernorm.weight", D), n.put(b + "post_attention_layernorm.weight", D)
    n.put(m + "model.norm.weight", D)
    lora(m + "lm_head", s["V"], D)


def heads(n, D, region, box):
    n.linear("loc_encoder.0", box, 4), n.linear("loc_encoder.2", D, box)
    n.linear("loc_decoder.0", region, D), n.linear("loc_decoder.2", 4, region)
    for token in ("box", "temporal", "track"):
        n.put(token + "_token", 1, 1, D)
    for name, out in (("track_embed", 768), ("track_embed_decode2", 4), ("temporal_embed", 2), ("action_embed", 1)):
        n.mlp(name, D, D, out)


def temporal(n, H=256, F=1024):
    m = "cg_model."

    def encoder(name, layers, projections=True):
        for i in range(layers):
            b = m + "%s.layers.%d." % (name, i)
            if projections:
                n.put(b + "self_attn.in_proj_weight", 3 * H, H), n.put(b + "self_attn.in_proj_bias", 3 * H)
            n.linear(b + "self_attn.out_proj", H, H), n.linear(b + "linear1", F, H), n.linear(b + "linear2", H, F)
            n.norm(b + "norm1", H), n.norm(b + "norm2", H), n.put(b + "activation.weight", 1)

    for name, width in (("txt", 4096), ("vid", 770)):
        for i, inner in enumerate((width, H)):
            n.norm(m + "input_%s_proj.%d.LayerNorm" % (name, i), inner)
            n.linear(m + "input_%s_proj.%d.net.1" % (name, i), H, inner)
    n.norm(m + "txt_proj_linear.LayerNorm", 4096), n.linear(m + "txt_proj_linear.net.1", H, 4096)
    n.norm(m + "txt_position_embed.LayerNorm", H), n.put(m + "txt_position_embed.position_embeddings.weight", 100, H)
    n.put(m + "token_type_embeddings.weight", 2, H), n.put(m + "query_embed.weight", 10, 2)
    n.put(m + "dummy_rep_token", 45, H), n.put(m + "dummy_rep_pos", 45, H)
    n.put(m + "global_rep_token", 10, H), n.put(m + "global_rep_pos", 1, H)
    for name in ("moment_rep_token", "moment_rep_pos", "sent_rep_token", "sent_rep_pos"):
        n.put(m + name, H)
    encoder("txtproj_encoder", 2), encoder("scls_encoder", 1), encoder("transformer.mcls_encoder", 1)
    encoder("transformer.t2v_encoder", 2, projections=False), encoder("transformer.encoder", 3)
    d = m + "transformer.decoder."
    for i in range(3):
        b = d + "layers.%d." % i
        for name in ("sa_qcontent", "sa_qpos", "sa_kcontent", "sa_kpos", "sa_v", "ca_qcontent", "ca_kcontent", "ca_kpos",
                     "ca_v", "ca_qpos_sine") + ("ca_qpos",) * (i == 0):
            n.linear(b + name + "_proj", H, H)
        n.linear(b + "self_attn.out_proj", H, H), n.linear(b + "cross_attn.out_proj", H, H)
        n.linear(b + "linear1", F, H), n.linear(b + "linear2", H, F), n.put(b + "activation.weight", 1)
        for norm in ("norm1", "norm2", "norm3"):
            n.norm(b + norm, H)
    n.norm(d + "norm", H), n.mlp(d + "bbox_embed", H, H, H, 2), n.mlp(d + "query_scale", H, H, H)
    n.mlp(d + "ref_point_head", H, H, H), n.mlp(d + "ref_anchor_head", H, H, 1)
    n.linear(m + "class_embed", 2, H), n.mlp(m + "span_embed", H, H, H, 2)
    n.linear(m + "saliency_proj1", H, H), n.linear(m + "saliency_proj2", H, H)
    n.put("cg_criterion.empty_weight", 2)


def sam(n):
    t = "sam.image_encoder.trunk."
    n.linear(t + "patch_embed.proj", 144, 3, 7, 7)
    n.put(t + "pos_embed", 1, 144, 7, 7), n.put(t + "pos_embed_window", 1, 144, 8, 8)
    din = 144
    for i in range(48):
        dout = 144 if i < 2 else 288 if i < 8 else 576 if i < 44 else 1152
        b = t + "blocks.%d." % i
        n.norm(b + "norm1", din), n.norm(b + "norm2", dout)
        n.linear(b + "attn.qkv", 3 * dout, din), n.linear(b + "attn.proj", dout, dout)
        n.mlp(b + "mlp", dout, 4 * dout, dout)
        if din != dout:
            n.linear(b + "proj", dout, din)
        din = dout
    for i, width in enumerate((1152, 576, 288, 144)):
        n.linear("sam.image_encoder.neck.convs.%d.conv" % i, 256, width, 1, 1)
    for i in range(4):
        b = "sam.memory_attention.layers.%d." % i
        for kind, inner in (("self_attn", 256), ("cross_attn_image", 64)):
            n.linear(b + kind + ".q_proj", 256, 256), n.linear(b + kind + ".out_proj", 256, 256)
            n.linear(b + kind + ".k_proj", 256, inner), n.linear(b + kind + ".v_proj", 256, inner)
        n.linear(b + "linear1", 2048, 256), n.linear(b + "linear2", 256, 2048)
        for norm in ("norm1", "norm2", "norm3"):
            n.norm(b + norm, 256)
    n.norm("sam.memory_attention.norm", 256)
    e = "sam.memory_encoder."
    for i, (a, b) in enumerate(((1, 4), (4, 16), (16, 64), (64, 256))):
        n.linear(e + "mask_downsampler.encoder.%d" % (3 * i), b, a, 3, 3)
        n.norm(e + "mask_downsampler.encoder.%d" % (3 * i + 1), b)
    n.linear(e + "mask_downsampler.encoder.12", 256, 256, 1, 1)
    n.linear(e + "pix_feat_proj", 256, 256, 1, 1), n.linear(e + "out_proj", 64, 256, 1, 1)
    for i in range(2):
        b = e + "fuser.layers.%d." % i
        n.linear(b + "dwconv", 256, 1, 7, 7), n.norm(b + "norm", 256), n.put(b + "gamma", 256)
        n.linear(b + "pwconv1", 1024, 256), n.linear(b + "pwconv2", 256, 1024)
    sam_heads(n)


def sam_heads(n):
    p = "sam.sam_prompt_encoder."
    n.put(p + "pe_layer.positional_encoding_gaussian_matrix", 2, 128)
    for name in ["point_embeddings.%d" % i for i in range(4)] + ["not_a_point_embed", "no_mask_embed"]:
        n.put(p + name + ".weight", 1, 256)
    n.linear(p + "mask_downscaling.0", 4, 1, 2, 2), n.norm(p + "mask_downscaling.1", 4)
    n.linear(p + "mask_downscaling.3", 16, 4, 2, 2), n.norm(p + "mask_downscaling.4", 16)
    n.linear(p + "mask_downscaling.6", 256, 16, 1, 1)
    d = "sam.sam_mask_decoder."

    def attention(name, inner):
        for proj in "qkv":
            n.linear(name + ".%s_proj" % proj, inner, 256)
        n.linear(name + ".out_proj", 256, inner)

    for i in range(2):
        b = d + "transformer.layers.%d." % i
        attention(b + "self_attn", 256)
        attention(b + "cross_attn_token_to_image", 128), attention(b + "cross_attn_image_to_token", 128)
        n.mlp(b + "mlp", 256, 2048, 256)
        for norm in ("norm1", "norm2", "norm3", "norm4"):
            n.norm(b + norm, 256)
    attention(d + "transformer.final_attn_token_to_image", 128), n.norm(d + "transformer.norm_final_attn", 256)
    for name, rows in (("iou_token", 1), ("mask_tokens", 4), ("obj_score_token", 1)):
        n.put(d + name + ".weight", rows, 256)
    n.put(d + "output_upscaling.0.weight", 256, 64, 2, 2), n.put(d + "output_upscaling.0.bias", 64)
    n.norm(d + "output_upscaling.1", 64)
    n.put(d + "output_upscaling.3.weight", 64, 32, 2, 2), n.put(d + "output_upscaling.3.bias", 32)
    n.linear(d + "conv_s0", 32, 256, 1, 1), n.linear(d + "conv_s1", 64, 256, 1, 1)
    for i in range(4):
        n.mlp(d + "output_hypernetworks_mlps.%d" % i, 256, 256, 256, 32)
    n.mlp(d + "iou_prediction_head", 256, 256, 256, 4), n.mlp(d + "pred_obj_score_head", 256, 256, 256, 1)
    n.mlp("sam.obj_ptr_proj", 256, 256, 256, 256), n.linear("sam.mask_downsample", 1, 1, 4, 4)
    n.put("sam.maskmem_tpos_enc", 7, 1, 1, 64), n.put("sam.no_obj_ptr", 1, 256)
    n.put("sam.no_mem_embed", 1, 1, 256), n.put("sam.no_mem_pos_enc", 1, 1, 256)


def shapes_of(size):
    """{name: shape} at these sizes; parts without sizes of their own are divided as a whole."""
    n = Names(1)
    vision(n, size["vision"]), qformer(n, size["qformer"], size["vision"]["C"], size["language"]["C"])
    language(n, size["language"]), heads(n, size["language"]["C"], size["region"], size["box"])
    other = Names(1)
    temporal(other), sam(other)
    for name, shape in other.shapes.items():
        n.put(name, *(max(1, d // size["divide"]) for d in shape))
    return n.shapes


def mistral(shapes, language):
    """The frozen language model by itself, as transformers names it, without the task tokens."""
    out = {}
    for name, shape in shapes.items():
        if name.startswith("lm.") and ".lora_" not in name:
            out[name[len("lm.base_model.model."):].replace(".base_layer", "")] = tuple(
                d - 7 if d == language["V"] else d for d in shape)
    return out


def videochat2_mistral(shapes, language):
    """The same model before its task heads: other names of two parts, a vocabulary without the task tokens. Its
    trainer stores what it trained: of the language model the adapters alone."""
    out = {}
    shapes = {n: s for n, s in shapes.items() if not n.startswith("lm.") or ".lora_" in n}
    for name, shape in shapes.items():
        if name.startswith(("vision", "qformer.", "query_tokens", "extra_query_tokens", "project_up", "lm.")):
            name = name.replace("project_up", "mistral_proj")
            name = "mistral_model." + name[3:] if name.startswith("lm.") else name
            out[name] = tuple(d - 7 if d == language["V"] else d for d in shape)
    return out


def bert(shapes, vocabulary, C):
    """The text half of a Q-Former, before [DEC] joined its vocabulary."""
    out = {"bert.embeddings.token_type_embeddings.weight": (2, C), "bert.pooler.dense.weight": (C, C),
           "bert.pooler.dense.bias": (C,), "cls.seq_relationship.weight": (2, C)}
    for name, shape in shapes.items():
        if name.startswith("qformer.") and "crossattention" not in name and "_query." not in name:
            name = name[8:].replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
            out[name] = (vocabulary - 1, C) if "word_embeddings" in name else shape
    return out


def llava_ov(vision, language):
    n = Names(1)
    C, F, P, D = vision["C"], vision["F"], vision["P"], language["C"]
    v = "model.vision_tower.vision_tower.vision_model."
    n.linear(v + "embeddings.patch_embedding", C, 3, P, P)
    n.put(v + "embeddings.position_embedding.weight", vision["positions"], C)
    for i in range(vision["n"]):
        b = v + "encoder.layers.%d." % i
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            n.linear(b + "self_attn." + name, C, C)
        n.norm(b + "layer_norm1", C), n.norm(b + "layer_norm2", C)
        n.linear(b + "mlp.fc1", F, C), n.linear(b + "mlp.fc2", C, F)
    n.norm(v + "post_layernorm", C)
    n.linear("model.mm_projector.0", D, C), n.linear("model.mm_projector.2", D, D), n.put("model.image_newline", D)
    n.put("model.embed_tokens.weight", language["V"], D)
    for i in range(language["n"]):
        b = "model.layers.%d." % i
        n.linear(b + "self_attn.q_proj", D, D), n.put(b + "self_attn.o_proj.weight", D, D)
        n.linear(b + "self_attn.k_proj", language["kv"], D), n.linear(b + "self_attn.v_proj", language["kv"], D)
        n.put(b + "mlp.gate_proj.weight", language["F"], D), n.put(b + "mlp.up_proj.weight", language["F"], D)
        n.put(b + "mlp.down_proj.weight", D, language["F"])
        n.put(b + "input_layernorm.weight", D), n.put(b + "post_attention_layernorm.weight", D)
    n.put("model.norm.weight", D), n.put("lm_head.weight", language["V"], D)
    return n.shapes


def shapes_of_layout(layout, size):
    if layout == "llava_ov":
        return llava_ov(**size["llava"])
    shapes = shapes_of(size)
    if layout == "bert":
        return bert(shapes, size["qformer"]["V"], size["qformer"]["C"])
    if layout in ("videochat2_mistral", "mistral"):
        return (mistral if layout == "mistral" else videochat2_mistral)(shapes, size["language"])
    return shapes


def pairs_of(layout):
    """(public name, ours) of what the golden scripts compare, patches apart, which have another order."""
    for name in shapes_of_layout(layout, NANO):
        part, dot, rest = name.partition(".")
        if is_ids(name) or name.endswith(("patch_embed.proj.weight", "patch_embedding.weight")):
            continue
        if part == "qformer":
            yield name, public_names.qformer(rest)
        elif part == "bert" and not re.search("token_type|pooler", name):
            yield name, public_names.qformer(name).replace("gamma", "weight").replace("beta", "bias")
        elif name.startswith("vision_encoder.encoder."):
            yield name, public_names.umt("vision." + name[len("vision_encoder.encoder."):])
        elif part == "vision_layernorm":
            yield name, public_names.umt("norm." + rest)
        elif name.startswith("model.vision_tower."):
            yield name, public_names.siglip(name[len("model.vision_tower.vision_tower."):])
        elif re.match(r"model\.(mm_projector|image_newline)", name):
            yield name, public_names.projector(name)
        elif re.match(r"(lm\.|mistral_model\.)?(base_model|model|lm_head)\.", name):
            yield name, public_names.language(re.sub(r"^(lm|mistral_model)\.", "", name))


def bits(_, size):
    return os.urandom(size)


def normal(name, size):
    """bf16: the upper halves of fp32."""
    gain = 1 if "norm" in name.lower() and name.endswith("weight") else 0
    draw = random.Random(name)
    wide = array.array("f", (draw.gauss(gain, 0.02) for _ in range(size // 2))).tobytes()
    narrow = bytearray(size)
    narrow[0::2], narrow[1::2] = wide[2::4], wide[3::4]
    return bytes(narrow)


def is_ids(name):
    return name.endswith("position_ids")


def bytes_of(name, shape):
    return math.prod(shape) * (8 if is_ids(name) else 2)


def write(out, shapes, shard_bytes, values):
    """values(name, size): so many bytes of a tensor, the next ones at each call."""
    shards, filled = [[]], 0
    for name, shape in shapes.items():
        size = bytes_of(name, shape)
        if filled and filled + size > shard_bytes:
            shards.append([])
            filled = 0
        shards[-1].append(name)
        filled += size
    os.makedirs(out)
    weight_map = {}
    for i, names in enumerate(shards):
        file = "model-%05d-of-%05d.safetensors" % (i + 1, len(shards))
        names.sort(key=lambda n: (not is_ids(n), n.encode()))  # by falling width, as the public writer does
        header, end = {"__metadata__": {"format": "pt"}}, 0
        for name in names:
            size = bytes_of(name, shapes[name])
            header[name] = {"dtype": "I64" if is_ids(name) else "BF16", "shape": list(shapes[name]),
                            "data_offsets": [end, end + size]}
            end += size
            weight_map[name] = file
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        with open(os.path.join(out, file), "wb") as f:
            f.write(struct.pack("<Q", len(text)) + text)
            for name in names:
                if is_ids(name):
                    f.write(struct.pack("<%dq" % shapes[name][1], *range(shapes[name][1])))
                    continue
                left = bytes_of(name, shapes[name])
                while left:
                    f.write(values(name, min(left, 16 << 20)))
                    left -= min(left, 16 << 20)
    total = sum(bytes_of(*item) for item in shapes.items())
    with open(os.path.join(out, "model.safetensors.index.json"), "w", encoding="ascii") as f:
        json.dump({"metadata": {"total_size": total}, "weight_map": weight_map}, f, indent=2, sort_keys=True)
        f.write("\n")


def check():
    shapes = shapes_of(FULL)
    total = sum(bytes_of(*item) for item in shapes.items())
    elements = {}
    for name, shape in shapes.items():
        part = name.split(".")[0]
        elements[part] = elements.get(part, 0) + math.prod(shape)
    print(len(shapes), total)
    public = {"sam": 224430386, "cg_model": 13953835, "vision_encoder": 290477056, "qformer": 182121728,
              "lm": 7241789440 + 42520688, "track_embed": 19927808, "loc_decoder": 8398852, "loc_encoder": 8402944}
    wrong = ["%s: %d, public %d" % (k, elements[k], v) for k, v in public.items() if elements[k] != v]
    if len(shapes) != 2594 or total != 16202736564:
        wrong.append("2594 tensors and 16202736564 bytes are public")
    llava = sum(math.prod(shape) for shape in llava_ov(**FULL["llava"]).values())
    print(llava)
    if llava != 397747744 + 16980992 + 3584 + 7615616512:
        wrong.append("llava_ov: %d elements, public 8030348832" % llava)
    return "\n".join(wrong) or 0


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", nargs="?")
    parser.add_argument("--names", action="store_true")
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--layout", choices=("videochat_tpo", "videochat2_mistral", "mistral", "bert", "llava_ov"),
                        default="videochat_tpo")
    parser.add_argument("--values", choices=("bits", "normal"), default="bits")
    parser.add_argument("--size", choices=("full", "nano"), default="nano")
    parser.add_argument("--shard-bytes", type=int, default=5_000_000_000)
    args = parser.parse_args()
    if args.check:
        return check()
    if args.names:
        for pair in pairs_of(args.layout):
            print(*pair)
        return 0
    shapes = shapes_of_layout(args.layout, FULL if args.size == "full" else NANO)
    if args.list:
        for name, shape in shapes.items():
            print(name, *shape)
        return 0
    if not args.out:
        parser.error("OUT is missing")
    write(args.out, shapes, args.shard_bytes, bits if args.values == "bits" else normal)
    return 0


if __name__ == "__main__":
    sys.exit(main())
