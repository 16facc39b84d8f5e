"""Arrays of the Flax models of transformers before version 5, and their PyTorch tensors.

One array per line: layout, path in Flax, name in PyTorch (on the next line where it is long). ``=`` is the
same layout, ``T`` is transposed, ``P`` is a patch kernel: [height, width, in, out] in Flax, [out, in, height,
width] in PyTorch. Each model has one layer.
"""

__all__ = ["FLAX_NAMES"]

# fmt: off
FLAX_NAMES = {
    "FlaxBertForMaskedLM": """
= bert/embeddings/word_embeddings/embedding bert.embeddings.word_embeddings.weight
= bert/embeddings/position_embeddings/embedding bert.embeddings.position_embeddings.weight
= bert/embeddings/token_type_embeddings/embedding bert.embeddings.token_type_embeddings.weight
= bert/embeddings/LayerNorm/scale bert.embeddings.LayerNorm.weight
= bert/embeddings/LayerNorm/bias bert.embeddings.LayerNorm.bias
T bert/encoder/layer/0/attention/self/query/kernel bert.encoder.layer.0.attention.self.query.weight
= bert/encoder/layer/0/attention/self/query/bias bert.encoder.layer.0.attention.self.query.bias
T bert/encoder/layer/0/attention/self/key/kernel bert.encoder.layer.0.attention.self.key.weight
= bert/encoder/layer/0/attention/self/key/bias bert.encoder.layer.0.attention.self.key.bias
T bert/encoder/layer/0/attention/self/value/kernel bert.encoder.layer.0.attention.self.value.weight
= bert/encoder/layer/0/attention/self/value/bias bert.encoder.layer.0.attention.self.value.bias
T bert/encoder/layer/0/attention/output/dense/kernel bert.encoder.layer.0.attention.output.dense.weight
= bert/encoder/layer/0/attention/output/dense/bias bert.encoder.layer.0.attention.output.dense.bias
= bert/encoder/layer/0/attention/output/LayerNorm/scale bert.encoder.layer.0.attention.output.LayerNorm.weight
= bert/encoder/layer/0/attention/output/LayerNorm/bias bert.encoder.layer.0.attention.output.LayerNorm.bias
T bert/encoder/layer/0/intermediate/dense/kernel bert.encoder.layer.0.intermediate.dense.weight
= bert/encoder/layer/0/intermediate/dense/bias bert.encoder.layer.0.intermediate.dense.bias
T bert/encoder/layer/0/output/dense/kernel bert.encoder.layer.0.output.dense.weight
= bert/encoder/layer/0/output/dense/bias bert.encoder.layer.0.output.dense.bias
= bert/encoder/layer/0/output/LayerNorm/scale bert.encoder.layer.0.output.LayerNorm.weight
= bert/encoder/layer/0/output/LayerNorm/bias bert.encoder.layer.0.output.LayerNorm.bias
T cls/predictions/transform/dense/kernel cls.predictions.transform.dense.weight
= cls/predictions/transform/dense/bias cls.predictions.transform.dense.bias
= cls/predictions/transform/LayerNorm/scale cls.predictions.transform.LayerNorm.weight
= cls/predictions/transform/LayerNorm/bias cls.predictions.transform.LayerNorm.bias
= cls/predictions/bias cls.predictions.bias
""",
    "FlaxGPT2LMHeadModel": """
= transformer/wte/embedding transformer.wte.weight
= transformer/wpe/embedding transformer.wpe.weight
= transformer/h/0/ln_1/scale transformer.h.0.ln_1.weight
= transformer/h/0/ln_1/bias transformer.h.0.ln_1.bias
T transformer/h/0/attn/c_attn/kernel transformer.h.0.attn.c_attn.weight
= transformer/h/0/attn/c_attn/bias transformer.h.0.attn.c_attn.bias
T transformer/h/0/attn/c_proj/kernel transformer.h.0.attn.c_proj.weight
= transformer/h/0/attn/c_proj/bias transformer.h.0.attn.c_proj.bias
= transformer/h/0/ln_2/scale transformer.h.0.ln_2.weight
= transformer/h/0/ln_2/bias transformer.h.0.ln_2.bias
T transformer/h/0/mlp/c_fc/kernel transformer.h.0.mlp.c_fc.weight
= transformer/h/0/mlp/c_fc/bias transformer.h.0.mlp.c_fc.bias
T transformer/h/0/mlp/c_proj/kernel transformer.h.0.mlp.c_proj.weight
= transformer/h/0/mlp/c_proj/bias transformer.h.0.mlp.c_proj.bias
= transformer/ln_f/scale transformer.ln_f.weight
= transformer/ln_f/bias transformer.ln_f.bias
""",
    "FlaxT5ForConditionalGeneration": """
= shared/embedding shared.weight
T encoder/block/0/layer/0/SelfAttention/q/kernel encoder.block.0.layer.0.SelfAttention.q.weight
T encoder/block/0/layer/0/SelfAttention/k/kernel encoder.block.0.layer.0.SelfAttention.k.weight
T encoder/block/0/layer/0/SelfAttention/v/kernel encoder.block.0.layer.0.SelfAttention.v.weight
T encoder/block/0/layer/0/SelfAttention/o/kernel encoder.block.0.layer.0.SelfAttention.o.weight
= encoder/block/0/layer/0/SelfAttention/relative_attention_bias/embedding
  encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight
T encoder/block/0/layer/1/DenseReluDense/wi_0/kernel encoder.block.0.layer.1.DenseReluDense.wi_0.weight
T encoder/block/0/layer/1/DenseReluDense/wi_1/kernel encoder.block.0.layer.1.DenseReluDense.wi_1.weight
T encoder/block/0/layer/1/DenseReluDense/wo/kernel encoder.block.0.layer.1.DenseReluDense.wo.weight
= encoder/block/0/layer/0/layer_norm/weight encoder.block.0.layer.0.layer_norm.weight
= encoder/block/0/layer/1/layer_norm/weight encoder.block.0.layer.1.layer_norm.weight
= encoder/final_layer_norm/weight encoder.final_layer_norm.weight
T decoder/block/0/layer/0/SelfAttention/q/kernel decoder.block.0.layer.0.SelfAttention.q.weight
T decoder/block/0/layer/0/SelfAttention/k/kernel decoder.block.0.layer.0.SelfAttention.k.weight
T decoder/block/0/layer/0/SelfAttention/v/kernel decoder.block.0.layer.0.SelfAttention.v.weight
T decoder/block/0/layer/0/SelfAttention/o/kernel decoder.block.0.layer.0.SelfAttention.o.weight
T decoder/block/0/layer/1/EncDecAttention/q/kernel decoder.block.0.layer.1.EncDecAttention.q.weight
T decoder/block/0/layer/1/EncDecAttention/k/kernel decoder.block.0.layer.1.EncDecAttention.k.weight
T decoder/block/0/layer/1/EncDecAttention/v/kernel decoder.block.0.layer.1.EncDecAttention.v.weight
T decoder/block/0/layer/1/EncDecAttention/o/kernel decoder.block.0.layer.1.EncDecAttention.o.weight
= decoder/block/0/layer/0/SelfAttention/relative_attention_bias/embedding
  decoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight
T decoder/block/0/layer/2/DenseReluDense/wi_0/kernel decoder.block.0.layer.2.DenseReluDense.wi_0.weight
T decoder/block/0/layer/2/DenseReluDense/wi_1/kernel decoder.block.0.layer.2.DenseReluDense.wi_1.weight
T decoder/block/0/layer/2/DenseReluDense/wo/kernel decoder.block.0.layer.2.DenseReluDense.wo.weight
= decoder/block/0/layer/0/layer_norm/weight decoder.block.0.layer.0.layer_norm.weight
= decoder/block/0/layer/1/layer_norm/weight decoder.block.0.layer.1.layer_norm.weight
= decoder/block/0/layer/2/layer_norm/weight decoder.block.0.layer.2.layer_norm.weight
= decoder/final_layer_norm/weight decoder.final_layer_norm.weight
T lm_head/kernel lm_head.weight
""",
    "FlaxBartForConditionalGeneration": """
= model/shared/embedding model.shared.weight
= model/encoder/embed_positions/embedding model.encoder.embed_positions.weight
= model/encoder/layernorm_embedding/scale model.encoder.layernorm_embedding.weight
= model/encoder/layernorm_embedding/bias model.encoder.layernorm_embedding.bias
T model/encoder/layers/0/self_attn/q_proj/kernel model.encoder.layers.0.self_attn.q_proj.weight
= model/encoder/layers/0/self_attn/q_proj/bias model.encoder.layers.0.self_attn.q_proj.bias
T model/encoder/layers/0/self_attn/k_proj/kernel model.encoder.layers.0.self_attn.k_proj.weight
= model/encoder/layers/0/self_attn/k_proj/bias model.encoder.layers.0.self_attn.k_proj.bias
T model/encoder/layers/0/self_attn/v_proj/kernel model.encoder.layers.0.self_attn.v_proj.weight
= model/encoder/layers/0/self_attn/v_proj/bias model.encoder.layers.0.self_attn.v_proj.bias
T model/encoder/layers/0/self_attn/out_proj/kernel model.encoder.layers.0.self_attn.out_proj.weight
= model/encoder/layers/0/self_attn/out_proj/bias model.encoder.layers.0.self_attn.out_proj.bias
= model/encoder/layers/0/self_attn_layer_norm/scale model.encoder.layers.0.self_attn_layer_norm.weight
= model/encoder/layers/0/self_attn_layer_norm/bias model.encoder.layers.0.self_attn_layer_norm.bias
T model/encoder/layers/0/fc1/kernel model.encoder.layers.0.fc1.weight
= model/encoder/layers/0/fc1/bias model.encoder.layers.0.fc1.bias
T model/encoder/layers/0/fc2/kernel model.encoder.layers.0.fc2.weight
= model/encoder/layers/0/fc2/bias model.encoder.layers.0.fc2.bias
= model/encoder/layers/0/final_layer_norm/scale model.encoder.layers.0.final_layer_norm.weight
= model/encoder/layers/0/final_layer_norm/bias model.encoder.layers.0.final_layer_norm.bias
= model/decoder/embed_positions/embedding model.decoder.embed_positions.weight
= model/decoder/layernorm_embedding/scale model.decoder.layernorm_embedding.weight
= model/decoder/layernorm_embedding/bias model.decoder.layernorm_embedding.bias
T model/decoder/layers/0/self_attn/q_proj/kernel model.decoder.layers.0.self_attn.q_proj.weight
= model/decoder/layers/0/self_attn/q_proj/bias model.decoder.layers.0.self_attn.q_proj.bias
T model/decoder/layers/0/self_attn/k_proj/kernel model.decoder.layers.0.self_attn.k_proj.weight
= model/decoder/layers/0/self_attn/k_proj/bias model.decoder.layers.0.self_attn.k_proj.bias
T model/decoder/layers/0/self_attn/v_proj/kernel model.decoder.layers.0.self_attn.v_proj.weight
= model/decoder/layers/0/self_attn/v_proj/bias model.decoder.layers.0.self_attn.v_proj.bias
T model/decoder/layers/0/self_attn/out_proj/kernel model.decoder.layers.0.self_attn.out_proj.weight
= model/decoder/layers/0/self_attn/out_proj/bias model.decoder.layers.0.self_attn.out_proj.bias
= model/decoder/layers/0/self_attn_layer_norm/scale model.decoder.layers.0.self_attn_layer_norm.weight
= model/decoder/layers/0/self_attn_layer_norm/bias model.decoder.layers.0.self_attn_layer_norm.bias
T model/decoder/layers/0/encoder_attn/q_proj/kernel model.decoder.layers.0.encoder_attn.q_proj.weight
= model/decoder/layers/0/encoder_attn/q_proj/bias model.decoder.layers.0.encoder_attn.q_proj.bias
T model/decoder/layers/0/encoder_attn/k_proj/kernel model.decoder.layers.0.encoder_attn.k_proj.weight
= model/decoder/layers/0/encoder_attn/k_proj/bias model.decoder.layers.0.encoder_attn.k_proj.bias
T model/decoder/layers/0/encoder_attn/v_proj/kernel model.decoder.layers.0.encoder_attn.v_proj.weight
= model/decoder/layers/0/encoder_attn/v_proj/bias model.decoder.layers.0.encoder_attn.v_proj.bias
T model/decoder/layers/0/encoder_attn/out_proj/kernel model.decoder.layers.0.encoder_attn.out_proj.weight
= model/decoder/layers/0/encoder_attn/out_proj/bias model.decoder.layers.0.encoder_attn.out_proj.bias
= model/decoder/layers/0/encoder_attn_layer_norm/scale model.decoder.layers.0.encoder_attn_layer_norm.weight
= model/decoder/layers/0/encoder_attn_layer_norm/bias model.decoder.layers.0.encoder_attn_layer_norm.bias
T model/decoder/layers/0/fc1/kernel model.decoder.layers.0.fc1.weight
= model/decoder/layers/0/fc1/bias model.decoder.layers.0.fc1.bias
T model/decoder/layers/0/fc2/kernel model.decoder.layers.0.fc2.weight
= model/decoder/layers/0/fc2/bias model.decoder.layers.0.fc2.bias
= model/decoder/layers/0/final_layer_norm/scale model.decoder.layers.0.final_layer_norm.weight
= model/decoder/layers/0/final_layer_norm/bias model.decoder.layers.0.final_layer_norm.bias
= final_logits_bias final_logits_bias
""",
    "FlaxLlamaForCausalLM": """
= model/embed_tokens/embedding model.embed_tokens.weight
T model/layers/0/self_attn/q_proj/kernel model.layers.0.self_attn.q_proj.weight
T model/layers/0/self_attn/k_proj/kernel model.layers.0.self_attn.k_proj.weight
T model/layers/0/self_attn/v_proj/kernel model.layers.0.self_attn.v_proj.weight
T model/layers/0/self_attn/o_proj/kernel model.layers.0.self_attn.o_proj.weight
T model/layers/0/mlp/gate_proj/kernel model.layers.0.mlp.gate_proj.weight
T model/layers/0/mlp/up_proj/kernel model.layers.0.mlp.up_proj.weight
T model/layers/0/mlp/down_proj/kernel model.layers.0.mlp.down_proj.weight
= model/layers/0/input_layernorm/weight model.layers.0.input_layernorm.weight
= model/layers/0/post_attention_layernorm/weight model.layers.0.post_attention_layernorm.weight
= model/norm/weight model.norm.weight
T lm_head/kernel lm_head.weight
""",
    "FlaxViTForImageClassification": """
= vit/embeddings/cls_token vit.embeddings.cls_token
= vit/embeddings/position_embeddings vit.embeddings.position_embeddings
P vit/embeddings/patch_embeddings/projection/kernel vit.embeddings.patch_embeddings.projection.weight
= vit/embeddings/patch_embeddings/projection/bias vit.embeddings.patch_embeddings.projection.bias
= vit/encoder/layer/0/layernorm_before/scale vit.encoder.layer.0.layernorm_before.weight
= vit/encoder/layer/0/layernorm_before/bias vit.encoder.layer.0.layernorm_before.bias
T vit/encoder/layer/0/attention/attention/query/kernel vit.encoder.layer.0.attention.attention.query.weight
= vit/encoder/layer/0/attention/attention/query/bias vit.encoder.layer.0.attention.attention.query.bias
T vit/encoder/layer/0/attention/attention/key/kernel vit.encoder.layer.0.attention.attention.key.weight
= vit/encoder/layer/0/attention/attention/key/bias vit.encoder.layer.0.attention.attention.key.bias
T vit/encoder/layer/0/attention/attention/value/kernel vit.encoder.layer.0.attention.attention.value.weight
= vit/encoder/layer/0/attention/attention/value/bias vit.encoder.layer.0.attention.attention.value.bias
T vit/encoder/layer/0/attention/output/dense/kernel vit.encoder.layer.0.attention.output.dense.weight
= vit/encoder/layer/0/attention/output/dense/bias vit.encoder.layer.0.attention.output.dense.bias
= vit/encoder/layer/0/layernorm_after/scale vit.encoder.layer.0.layernorm_after.weight
= vit/encoder/layer/0/layernorm_after/bias vit.encoder.layer.0.layernorm_after.bias
T vit/encoder/layer/0/intermediate/dense/kernel vit.encoder.layer.0.intermediate.dense.weight
= vit/encoder/layer/0/intermediate/dense/bias vit.encoder.layer.0.intermediate.dense.bias
T vit/encoder/layer/0/output/dense/kernel vit.encoder.layer.0.output.dense.weight
= vit/encoder/layer/0/output/dense/bias vit.encoder.layer.0.output.dense.bias
= vit/layernorm/scale vit.layernorm.weight
= vit/layernorm/bias vit.layernorm.bias
T classifier/kernel classifier.weight
= classifier/bias classifier.bias
""",
}
# fmt: on
