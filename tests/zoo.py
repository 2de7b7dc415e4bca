"""Small random models of many kinds, made from their configurations."""

import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, AutoModelForImageTextToText

IDS = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
WIDTHS = {"vocab_size": 300, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4,
          "num_attention_heads": 4, **IDS}  # fmt: skip
GROUPED = {**WIDTHS, "num_key_value_heads": 2}
WINDOWS = {"sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"] * 2}
LATENT = {**WIDTHS, "num_key_value_heads": 4, "q_lora_rank": 16, "kv_lora_rank": 8, "qk_nope_head_dim": 8,
          "qk_rope_head_dim": 4, "v_head_dim": 8}  # fmt: skip
ROUTED = {**GROUPED, "num_experts_per_tok": 2}
LONG_ROPE = {"rope_type": "longrope", "rope_theta": 10000.0, "short_factor": [1.0] * 4, "long_factor": [4.0] * 4,
             "original_max_position_embeddings": 16}  # fmt: skip
POSITIONS = {"max_position_embeddings": 64}

KINDS = {
    "llama": ("llama", GROUPED),
    "gpt2": ("gpt2", {"vocab_size": 300, "n_embd": 32, "n_layer": 4, "n_head": 4, **IDS}),
    "gpt-neox": ("gpt_neox", WIDTHS),
    "qwen2": ("qwen2", GROUPED),
    "qwen3": ("qwen3", {**GROUPED, "head_dim": 8}),
    "opt": ("opt", {"vocab_size": 300, "hidden_size": 32, "ffn_dim": 48, "num_hidden_layers": 4,
                    "num_attention_heads": 4, "word_embed_proj_dim": 16, **POSITIONS, **IDS}),
    "falcon": ("falcon", {**WIDTHS, **POSITIONS, "multi_query": True, "parallel_attn": True,
                          "new_decoder_architecture": False, "alibi": False, "bias": False}),
    "bloom": ("bloom", {"vocab_size": 300, "hidden_size": 32, "n_layer": 6, "n_head": 4, **IDS}),
    "gemma3n": ("gemma3n_text", {
        **GROUPED, **WINDOWS, "intermediate_size": [48] * 4, "head_dim": 8, "num_kv_shared_layers": 2,
        "vocab_size_per_layer_input": 300, "hidden_size_per_layer_input": 8, "laurel_rank": 4,
        "activation_sparsity_pattern": [0.0] * 4,
    }),
    "phi3": ("phi3", {**GROUPED, "max_position_embeddings": 128, "original_max_position_embeddings": 16,
                      "rope_scaling": None, "rope_parameters": LONG_ROPE}),
    "minicpm3": ("minicpm3", LATENT),
    "mixtral": ("mixtral", {**ROUTED, "num_local_experts": 4}),
    "qwen2-moe": ("qwen2_moe", {**ROUTED, "num_experts": 4, "moe_intermediate_size": 16,
                                "shared_expert_intermediate_size": 24}),
    "deepseek-v3": ("deepseek_v3", {**LATENT, "num_experts_per_tok": 2, "moe_intermediate_size": 16,
                                    "n_routed_experts": 4, "n_shared_experts": 1, "first_k_dense_replace": 1,
                                    "n_group": 1, "topk_group": 1}),
    "phimoe": ("phimoe", {**ROUTED, "num_local_experts": 4}),
    "mamba": ("mamba", {"vocab_size": 300, "hidden_size": 32, "num_hidden_layers": 4, "state_size": 4, **IDS}),
    "zamba2": ("zamba2", {
        **GROUPED, "attention_head_dim": 8, "mamba_headdim": 8, "n_mamba_heads": 8, "mamba_d_state": 8,
        "mamba_ngroups": 1, "num_mem_blocks": 1, "layers_block_type": ["mamba", "hybrid"] * 2,
        "hybrid_layer_ids": [1, 3], "chunk_size": 8, "adapter_rank": 4,
    }),
    "bart": ("bart", {"vocab_size": 300, "d_model": 32, "encoder_layers": 2, "decoder_layers": 4,
                      "encoder_attention_heads": 4, "decoder_attention_heads": 4, "encoder_ffn_dim": 48,
                      "decoder_ffn_dim": 48, **POSITIONS, "is_decoder": True, "is_encoder_decoder": False,
                      "decoder_start_token_id": 0, "forced_eos_token_id": 0, **IDS}),
    "gemma3": ("gemma3", {
        "text_config": {**GROUPED, "head_dim": 8, "query_pre_attn_scalar": 8, "sliding_window": 8,
                        "model_type": "gemma3_text"},
        "vision_config": {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
                          "num_attention_heads": 2, "image_size": 16, "patch_size": 8,
                          "model_type": "siglip_vision_model"},
        "mm_tokens_per_image": 4, "image_token_index": 299, "boi_token_index": 298, "eoi_token_index": 297,
    }),
}  # fmt: skip
"""Name -> model type, and what its configuration differs in from that type's defaults."""
HEADS, BLOCKS = {**GROUPED, "head_dim": 8}, {"vocab_size": 300, "n_embd": 32, "n_layer": 4, "n_head": 4, **IDS}
MORE = {
    "apertus": HEADS,
    "arcee": HEADS,
    "bamba": {**GROUPED, "mamba_n_heads": 8, "mamba_d_head": 8, "mamba_d_state": 8, "mamba_n_groups": 1,
              "mamba_expand": 2, "attn_layer_indices": [1], "mamba_chunk_size": 8},
    "bert": {**WIDTHS, "is_decoder": True},
    "biogpt": {**WIDTHS, **POSITIONS},
    "codegen": {**BLOCKS, "rotary_dim": 4},
    "cohere": GROUPED,
    "cohere2": HEADS,
    "ctrl": {**BLOCKS, "dff": 48},
    "dbrx": {"vocab_size": 300, "d_model": 32, "n_layers": 4, "n_heads": 4, "max_seq_len": 64,
             "attn_config": {"kv_n_heads": 2, "clip_qkv": 8, "rope_theta": 10000.0},
             "ffn_config": {"ffn_hidden_size": 16, "moe_num_experts": 4, "moe_top_k": 2}, **IDS},
    "deepseek_v2": {**LATENT, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "n_routed_experts": 4,
                    "n_shared_experts": 1, "first_k_dense_replace": 1},
    "diffllama": GROUPED,
    "ernie4_5": HEADS,
    "exaone4": {**HEADS, "sliding_window": 8},
    "falcon_mamba": {"vocab_size": 300, "hidden_size": 32, "num_hidden_layers": 4, "state_size": 4, **IDS},
    "gemma": HEADS,
    "gemma2": {**HEADS, "query_pre_attn_scalar": 8},
    "gemma3_text": {**HEADS, "query_pre_attn_scalar": 8},
    "gemma4_text": {**HEADS, "global_head_dim": 8, "num_experts": 16, "top_k_experts": 2, "enable_moe_block": True,
                    "moe_intermediate_size": 16, "vocab_size_per_layer_input": 300, "hidden_size_per_layer_input": 8,
                    "sliding_window": 8},
    "glm": HEADS,
    "glm4": HEADS,
    "gpt_bigcode": BLOCKS,
    "gpt_neo": {"vocab_size": 300, "hidden_size": 32, "num_layers": 4, "num_heads": 4,
                "attention_types": [[["global", "local"], 2]], **IDS},
    "gpt_neox_japanese": {**WIDTHS, "intermediate_multiple_size": 2},
    "gpt_oss": {**HEADS, "num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 8},
    "gptj": {**BLOCKS, "rotary_dim": 4},
    "granite": GROUPED,
    "granitemoe": {**ROUTED, "num_local_experts": 4},
    "helium": HEADS,
    "hunyuan_v1_dense": HEADS,
    "inkling_text": {**HEADS, "swa_num_attention_heads": 4, "swa_num_key_value_heads": 2, "swa_head_dim": 8,
                     "sliding_window_size": 8, "d_rel": 8, "rel_extent": 16, "moe_intermediate_size": 16,
                     "n_routed_experts": 4, "num_experts_per_tok": 2, "n_shared_experts": 2},
    "jamba": {**GROUPED, "num_experts": 2, "num_experts_per_tok": 1, "attn_layer_period": 2, "attn_layer_offset": 1,
              "expert_layer_period": 2, "expert_layer_offset": 1, "mamba_d_state": 8, "mamba_dt_rank": 4,
              "use_mamba_kernels": False},
    "jetmoe": {**GROUPED, "kv_channels": 8, "num_local_experts": 4},
    "lfm2": {**GROUPED, "block_ff_dim": 48, "block_multiple_of": 8, "layer_types": ["conv", "full_attention"] * 2},
    "mamba2": {"vocab_size": 300, "hidden_size": 32, "num_hidden_layers": 4, "state_size": 8, "num_heads": 8,
               "head_dim": 8, "n_groups": 1, "chunk_size": 8, **IDS},
    "mistral": GROUPED,
    "mpt": {"vocab_size": 300, "d_model": 32, "n_layers": 4, "n_heads": 4, "expansion_ratio": 2},
    "nemotron": HEADS,
    "olmo": GROUPED,
    "olmo2": GROUPED,
    "openai-gpt": BLOCKS,
    "persimmon": WIDTHS,
    "phi": GROUPED,
    "qwen3_moe": {**HEADS, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16},
    "qwen3_next": {**HEADS, "linear_key_head_dim": 8, "linear_value_head_dim": 8, "linear_num_key_heads": 2,
                   "linear_num_value_heads": 4, "num_experts": 16, "num_experts_per_tok": 2,
                   "moe_intermediate_size": 16, "shared_expert_intermediate_size": 16},
    "recurrent_gemma": {**GROUPED, "lru_width": 32, "attention_window_size": 16,
                        "block_types": ["recurrent", "recurrent", "attention"]},
    "seed_oss": HEADS,
    "smollm3": GROUPED,
    "stablelm": GROUPED,
    "starcoder2": GROUPED,
    "trocr": {"vocab_size": 300, "d_model": 32, "decoder_layers": 4, "decoder_attention_heads": 4,
              "decoder_ffn_dim": 48, **IDS},
    "xglm": {"vocab_size": 300, "d_model": 32, "ffn_dim": 48, "num_layers": 4, "attention_heads": 4, **IDS},
    "zaya": {**HEADS, "num_experts": 4, "moe_intermediate_size": 16, "router_hidden_size": 16},
    "xlnet": {"vocab_size": 300, "d_model": 32, "n_layer": 4, "n_head": 4, "d_inner": 48, **IDS},
}  # fmt: skip
"""Further model types, and what their configurations differ in."""
IMAGES_TOO = {"gemma3"}
WEIGHT_STD = 0.15
"""Of random weights, so that every layer matters; that of the libraries would leave the loss to the embeddings."""


def skeleton(kind):
    """Return a model without weights."""
    with torch.device("meta"):
        return _from_config(kind)


def built(kind):
    """Return a model of random weights, the same each time."""
    torch.manual_seed(0)
    model = _from_config(kind)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim >= 2 and 0 < weight.std() < WEIGHT_STD:
                weight.mul_(WEIGHT_STD / weight.std())
    return model.eval()


def _from_config(kind):
    model_type, choices = KINDS[kind] if kind in KINDS else (kind, MORE[kind])
    auto = AutoModelForImageTextToText if kind in IMAGES_TOO else AutoModelForCausalLM
    return auto.from_config(CONFIG_MAPPING[model_type](**choices))
