"""The names under which our Q-Former equals the public one: for qformer_golden.py and the test of weight layouts."""


def ours(name):
    """Public parameter name -> our name."""
    name = name.replace("bert.encoder.layer.", "connector.layers.")
    for a, b in [("bert.embeddings.LayerNorm", "connector.embed_norm"),
                 ("bert.embeddings.", "connector."),
                 ("crossattention.output.LayerNorm", "cross_norm"), ("crossattention.output.dense", "cross.o"),
                 ("crossattention.self.query", "cross.q"), ("crossattention.self.key", "cross.k"),
                 ("crossattention.self.value", "cross.v"),
                 ("attention.output.LayerNorm", "attn_norm"), ("attention.output.dense", "attn.o"),
                 ("attention.self.query", "attn.q"), ("attention.self.key", "attn.k"),
                 ("attention.self.value", "attn.v"),
                 ("intermediate_query.dense", "query_mlp.fc1"), ("output_query.dense", "query_mlp.fc2"),
                 ("output_query.LayerNorm", "query_norm"), ("intermediate.dense", "text_mlp.fc1"),
                 ("output.dense", "text_mlp.fc2"), ("output.LayerNorm", "text_norm")]:
        name = name.replace(a, b)
    return name
