"""The names under which our parts equal public ones: for the golden scripts and the test of weight layouts. Each maps the
public parameter name to ours."""


def replaced(name, *pairs):
    for a, b in pairs:
        name = name.replace(a, b)
    return name


def qformer(name):
    return replaced(
        name, ("bert.encoder.layer.", "connector.layers."), ("bert.embeddings.LayerNorm", "connector.embed_norm"),
        ("bert.embeddings.", "connector."), ("crossattention.output.LayerNorm", "cross_norm"),
        ("crossattention.output.dense", "cross.o"), ("crossattention.self.query", "cross.q"),
        ("crossattention.self.key", "cross.k"), ("crossattention.self.value", "cross.v"),
        ("attention.output.LayerNorm", "attn_norm"), ("attention.output.dense", "attn.o"),
        ("attention.self.query", "attn.q"), ("attention.self.key", "attn.k"), ("attention.self.value", "attn.v"),
        ("intermediate_query.dense", "query_mlp.fc1"), ("output_query.dense", "query_mlp.fc2"),
        ("output_query.LayerNorm", "query_norm"), ("intermediate.dense", "text_mlp.fc1"),
        ("output.dense", "text_mlp.fc2"), ("output.LayerNorm", "text_norm"))


def language(name):
    """Of transformers' Mistral and Qwen2, with or without peft."""
    return replaced(
        name, ("base_model.model.", ""), (".default", ""), ("base_layer.", ""), ("model.layers.", "language.layers."),
        ("model.embed_tokens", "language.embed_tokens"), ("model.norm", "language.norm"),
        ("lm_head", "language.lm_head"), ("self_attn.", "attn."), ("_proj.", "."), ("input_layernorm", "attn_norm"),
        ("post_attention_layernorm", "mlp_norm"), ("lora_A.weight", "lora_a"), ("lora_B.weight", "lora_b"))


def siglip(name):
    return replaced(
        name, ("vision_model.", "vision."), ("embeddings.patch_embedding", "patch_embed"),
        ("embeddings.position_embedding", "position_embedding"), ("encoder.layers.", "blocks."),
        ("self_attn.out_proj", "attn.proj"), ("self_attn.", "attn."), ("_proj.", "."), ("layer_norm", "norm"),
        ("post_layernorm", "post_norm"))


def umt(name):
    """`name`: vision.* of the encoder, norm.* of the norm behind it."""
    return name.replace("patch_embed.proj", "patch_embed") if name.startswith("vision") else "vision." + name


def projector(name):
    """Of LLaVA's mlp2x_gelu, a torch.nn.Sequential of Linear, GELU, Linear."""
    return replaced(name, ("model.mm_projector.0", "connector.fc1"), ("model.mm_projector.2", "connector.fc2"),
                    ("model.image_newline", "connector.newline"))
