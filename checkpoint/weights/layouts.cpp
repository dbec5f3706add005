// The layouts: one table per public module, and per public checkpoint the list of its modules. Theirs left, ours right.
#include <functional>
#include <utility>

#include "checkpoint/weights/name_map.h"
#include "core/error.h"

namespace tpo {
namespace {

constexpr int kSpecialTokens = 7;  // rows that the model has beyond a public vocabulary
// The public towers are made without their last layer, whose output nothing reads: 23 of UMT's 24, 26 of SigLIP's 27.
constexpr int kSpareLayers = 1;

const std::vector<MapRow> kUmt = {
    patches(5, "patch_embed.proj.weight", "patch_embed.weight"),
    same("patch_embed.proj.bias", "patch_embed.bias"),
    tower(kSpareLayers, same("blocks.#.norm{1,2}.{weight,bias}", "blocks.#.norm{1,2}.{weight,bias}")),
    tower(kSpareLayers, same("blocks.#.attn.{qkv.weight,q_bias,v_bias}", "blocks.#.attn.{qkv.weight,q_bias,v_bias}")),
    tower(kSpareLayers, same("blocks.#.attn.proj.{weight,bias}", "blocks.#.attn.proj.{weight,bias}")),
    tower(kSpareLayers, same("blocks.#.mlp.fc{1,2}.{weight,bias}", "blocks.#.mlp.fc{1,2}.{weight,bias}")),
};

const std::vector<MapRow> kSiglip = {
    patches(4, "embeddings.patch_embedding.weight", "patch_embed.weight"),
    same("embeddings.patch_embedding.bias", "patch_embed.bias"),
    same("embeddings.position_embedding.weight", "position_embedding.weight"),
    counting("embeddings.position_ids", "position_embedding.weight"),
    tower(kSpareLayers, same("encoder.layers.#.layer_norm{1,2}.{weight,bias}", "blocks.#.norm{1,2}.{weight,bias}")),
    tower(kSpareLayers,
          same("encoder.layers.#.self_attn.{q,k,v}_proj.{weight,bias}", "blocks.#.attn.{q,k,v}.{weight,bias}")),
    tower(kSpareLayers, same("encoder.layers.#.self_attn.out_proj.{weight,bias}", "blocks.#.attn.proj.{weight,bias}")),
    tower(kSpareLayers, same("encoder.layers.#.mlp.fc{1,2}.{weight,bias}", "blocks.#.mlp.fc{1,2}.{weight,bias}")),
    same("post_layernorm.{weight,bias}", "post_norm.{weight,bias}"),
    unused("head.*", "pooling head"),
};

// BERT without its vocabulary: self-attention, and the feed-forward of texts.
const std::vector<MapRow> kBertLayers = {
    same("encoder.layer.#.attention.self.{query,key,value}.{weight,bias}", "layers.#.attn.{q,k,v}.{weight,bias}"),
    same("encoder.layer.#.attention.output.{dense,LayerNorm}.{weight,bias}",
         "layers.#.{attn.o,attn_norm}.{weight,bias}"),
    same("encoder.layer.#.intermediate.dense.{weight,bias}", "layers.#.text_mlp.fc1.{weight,bias}"),
    same("encoder.layer.#.output.{dense,LayerNorm}.{weight,bias}", "layers.#.{text_mlp.fc2,text_norm}.{weight,bias}"),
};
const std::vector<MapRow> kBertEmbeddings = {
    same("embeddings.position_embeddings.weight", "position_embeddings.weight"),
    counting("embeddings.position_ids", "position_embeddings.weight"),
    same("embeddings.LayerNorm.{weight,bias}", "embed_norm.{weight,bias}"),
};
// What a Q-Former has beyond BERT.
const std::vector<MapRow> kQformerLayers = {
    same("encoder.layer.#.crossattention.self.{query,key,value}.{weight,bias}", "layers.#.cross.{q,k,v}.{weight,bias}"),
    same("encoder.layer.#.crossattention.output.{dense,LayerNorm}.{weight,bias}",
         "layers.#.{cross.o,cross_norm}.{weight,bias}"),
    same("encoder.layer.#.intermediate_query.dense.{weight,bias}", "layers.#.query_mlp.fc1.{weight,bias}"),
    same("encoder.layer.#.output_query.{dense,LayerNorm}.{weight,bias}",
         "layers.#.{query_mlp.fc2,query_norm}.{weight,bias}"),
};
// Queries start with BERT's feed-forward, what attends to the patches with the run's initial values; older files call
// the gain gamma and the bias beta.
const std::vector<MapRow> kBertOnly = {
    import_only(same("encoder.layer.#.intermediate.dense.{weight,bias}", "layers.#.query_mlp.fc1.{weight,bias}")),
    import_only(same("encoder.layer.#.output.{dense,LayerNorm}.{weight,bias}",
                     "layers.#.{query_mlp.fc2,query_norm}.{weight,bias}")),
    import_only(same("encoder.layer.#.attention.output.LayerNorm.{gamma,beta}", "layers.#.attn_norm.{weight,bias}")),
    import_only(same("encoder.layer.#.output.LayerNorm.{gamma,beta}", "layers.#.text_norm.{weight,bias}")),
    import_only(same("encoder.layer.#.output.LayerNorm.{gamma,beta}", "layers.#.query_norm.{weight,bias}")),
    import_only(same("embeddings.LayerNorm.{gamma,beta}", "embed_norm.{weight,bias}")),
    zeros(2, "embeddings.token_type_embeddings.weight", "position_embeddings.weight",
          "the Q-Former has no token types"),
    unused("pooler.*", "pooling head"),
};

const std::vector<MapRow> kDecoderNorms = {
    same("layers.#.{input,post_attention}_layernorm.weight", "layers.#.{attn,mlp}_norm.weight"),
    same("norm.weight", "norm.weight"),
};
const std::vector<MapRow> kDecoderLinears = {
    same("layers.#.self_attn.{q,k,v,o}_proj.weight", "layers.#.attn.{q,k,v,o}.weight"),
    same("layers.#.mlp.{gate,up,down}_proj.weight", "layers.#.mlp.{gate,up,down}.weight"),
};
// As peft wraps them.
const std::vector<MapRow> kLoraLinears = {
    same("layers.#.self_attn.{q,k,v,o}_proj.{base_layer,lora_A.default,lora_B.default}.weight",
         "layers.#.attn.{q,k,v,o}.{weight,lora_a,lora_b}"),
    same("layers.#.mlp.{gate,up,down}_proj.{base_layer,lora_A.default,lora_B.default}.weight",
         "layers.#.mlp.{gate,up,down}.{weight,lora_a,lora_b}"),
};
// As older versions of peft named the weights that they wrap.
const std::vector<MapRow> kOldLoraLinears = {
    import_only(same("layers.#.self_attn.{q,k,v,o}_proj.weight", "layers.#.attn.{q,k,v,o}.weight")),
    import_only(same("layers.#.mlp.{gate,up,down}_proj.weight", "layers.#.mlp.{gate,up,down}.weight")),
};
const std::vector<MapRow> kQkvBias = {same("layers.#.self_attn.{q,k,v}_proj.bias", "layers.#.attn.{q,k,v}.bias")};

using Rows = std::vector<MapRow>;

void add_vision_of_videochat(Rows& rows) {
  append_rows(rows, "vision_encoder.encoder.", "vision.", kUmt);
  append_rows(rows, "vision_layernorm.", "vision.norm.", {same("{weight,bias}", "{weight,bias}")});
}

// `project`: what the layer from the Q-Former to the language model is called.
void add_qformer_of_videochat(Rows& rows, const std::string& project) {
  for (const std::vector<MapRow>* table : {&kBertLayers, &kQformerLayers, &kBertEmbeddings})
    append_rows(rows, "qformer.bert.", "connector.", *table);
  append_rows(rows, "", "connector.",
              {same("qformer.bert.embeddings.word_embeddings.weight", "word_embeddings.weight"),
               leading_one("query_tokens", "queries"), leading_one("extra_query_tokens", "extra_queries"),
               same(project + ".{weight,bias}", "project_up.{weight,bias}")});
}

// Under `prefix`: a language model inside peft. `added`: rows that it lacks.
void add_peft_decoder(Rows& rows, const std::string& prefix, int added) {
  append_rows(rows, prefix + "base_model.model.model.", "language.", kDecoderNorms);
  append_rows(rows, prefix + "base_model.model.model.", "language.", kLoraLinears);
  append_rows(rows, prefix + "base_model.model.", "language.",
              {grown(added, "model.embed_tokens.weight", "embed_tokens.weight"),
               grown(added, "lm_head.base_layer.weight", "lm_head.weight"),
               same("lm_head.lora_A.default.weight", "lm_head.lora_a"),
               grown(added, "lm_head.lora_B.default.weight", "lm_head.lora_b")});
}

// A language model of transformers without peft. `spare`: its vocabulary has room for the special tokens.
void add_decoder(Rows& rows, const std::string& prefix, bool qkv_bias, bool spare) {
  const int added = spare ? 0 : kSpecialTokens;
  append_rows(rows, prefix + "model.", "language.", kDecoderNorms);
  append_rows(rows, prefix + "model.", "language.", kDecoderLinears);
  if (qkv_bias) append_rows(rows, prefix + "model.", "language.", kQkvBias);
  append_rows(rows, prefix, "language.",
              {grown(added, "model.embed_tokens.weight", "embed_tokens.weight"),
               grown(added, "lm_head.weight", "lm_head.weight"),
               fallback(grown(added, "model.embed_tokens.weight", "lm_head.weight"))});
}

Rows videochat_tpo() {
  Rows rows;
  add_vision_of_videochat(rows);
  add_qformer_of_videochat(rows, "project_up");
  add_peft_decoder(rows, "lm.", 0);
  append_rows(
      rows, "", "",
      {same("loc_encoder.{0,2}.{weight,bias}", "box_encoder.fc{1,2}.{weight,bias}"),
       same("loc_decoder.{0,2}.{weight,bias}", "heads.region.fc{1,2}.{weight,bias}"),
       leading_one("{box,temporal,track}_token", "task_tokens.{box,temporal,track}"),
       later("cg_model.*", "temporal head"), later("cg_criterion.*", "temporal head"),
       later("track_embed.*", "mask head"), later("track_embed_decode2.*", "mask head"), later("sam.*", "mask head"),
       unused("project_down.*", "its code never calls it"), unused("merge_proj.*", "its code never calls it"),
       unused("temporal_embed.*", "its code never calls it"), unused("action_embed.*", "its code never calls it")});
  return rows;
}

Rows videochat2_mistral() {
  Rows rows;
  add_vision_of_videochat(rows);
  add_qformer_of_videochat(rows, "mistral_proj");
  add_peft_decoder(rows, "mistral_model.", kSpecialTokens);
  append_rows(rows, "mistral_model.base_model.model.model.", "language.", kOldLoraLinears);
  append_rows(rows, "mistral_model.base_model.model.", "language.",
              {import_only(grown(kSpecialTokens, "lm_head.weight", "lm_head.weight"))});
  return rows;
}

Rows llava_ov() {
  Rows rows;
  append_rows(rows, "model.vision_tower.vision_tower.vision_model.", "vision.", kSiglip);
  append_rows(rows, "model.", "connector.",
              {same("mm_projector.{0,2}.{weight,bias}", "fc{1,2}.{weight,bias}"), same("image_newline", "newline")});
  add_decoder(rows, "", true, true);
  return rows;
}

Rows llava_ov_hf() {
  Rows rows;
  append_rows(rows, "vision_tower.vision_model.", "vision.", kSiglip);
  append_rows(rows, "", "connector.",
              {same("multi_modal_projector.linear_{1,2}.{weight,bias}", "fc{1,2}.{weight,bias}"),
               same("image_newline", "newline")});
  add_decoder(rows, "language_model.", true, true);
  return rows;
}

Rows mistral() {
  Rows rows;
  add_decoder(rows, "", false, false);
  append_rows(rows, "", "", {unused("model.layers.#.self_attn.rotary_emb.inv_freq", "computed")});
  return rows;
}

Rows qwen2() {
  Rows rows;
  add_decoder(rows, "", true, true);
  return rows;
}

Rows siglip() {
  Rows rows;
  append_rows(rows, "vision_model.", "vision.", kSiglip);
  append_rows(rows, "", "", {unused("text_model.*", "text tower"), unused("logit_{scale,bias}", "contrastive loss")});
  return rows;
}

Rows bert() {
  Rows rows;
  const std::vector<MapRow> words{grown(1, "embeddings.word_embeddings.weight", "word_embeddings.weight")};
  for (const std::vector<MapRow>* table : {&kBertLayers, &kBertEmbeddings, &kBertOnly, &words})
    append_rows(rows, "bert.", "connector.", *table);
  const size_t prefixed = rows.size();  // a model without heads is stored without the prefix
  for (size_t i = 0; i < prefixed; ++i) rows.push_back(import_only(rows[i])), rows.back().theirs.erase(0, 5);
  append_rows(rows, "", "", {unused("cls.*", "heads of its own pretraining")});
  return rows;
}

Rows umt() {
  Rows rows;
  add_vision_of_videochat(rows);
  add_qformer_of_videochat(rows, "project_up");
  append_rows(rows, "", "",
              {unused("text_encoder.*", "text tower"), unused("{vision,text}_proj.*", "contrastive loss"),
               unused("itm_head.*", "matching loss"), unused("temp", "contrastive loss")});
  return rows;
}

struct Known {
  const char *name, *about;
  Rows (*rows)();
};
constexpr Known kLayouts[] = {
    {"videochat_tpo", "OpenGVLab/VideoChat-TPO: all of the model", videochat_tpo},
    {"videochat2_mistral", "OpenGVLab/VideoChat2_stage*_Mistral_7B: encoder, Q-Former, language model with LoRA",
     videochat2_mistral},
    {"llava_ov", "lmms-lab/llava-onevision-qwen2-7b-ov: encoder, projector, language model", llava_ov},
    {"llava_ov_hf", "llava-hf/llava-onevision-qwen2-7b-ov-hf: the same as transformers names it", llava_ov_hf},
    {"mistral", "mistralai/Mistral-7B-Instruct-v0.2: language model; 7 rows are added to both tables", mistral},
    {"qwen2", "Qwen/Qwen2-7B-Instruct: language model", qwen2},
    {"siglip", "google/siglip-so400m-patch14-384: vision encoder", siglip},
    {"bert", "google-bert/bert-base-uncased: text half of the Q-Former, its feed-forward also for queries", bert},
    {"umt", "OpenGVLab umt_l16_qformer or l16_25m: vision encoder, Q-Former where the file has one", umt},
};

}  // namespace

std::vector<std::string> layout_names() {
  std::vector<std::string> names;
  for (const Known& k : kLayouts) names.emplace_back(k.name);
  return names;
}

Layout layout_of(std::string_view name) {
  std::string legal;
  for (const Known& k : kLayouts) {
    if (k.name == name) return {k.name, k.about, k.rows()};
    legal += (legal.empty() ? "" : ", ") + std::string(k.name);
  }
  throw ConfigError(cat("no layout ", name, "; legal: ", legal));
}

}  // namespace tpo
