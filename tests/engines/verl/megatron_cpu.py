"""Lets verl's Megatron engine run on the CPU with gloo: what megatron-core and verl leave to CUDA packages.

- megatron-core names the device "cuda" in its schedules and optimizers: tensors are made on the CPU instead;
- Transformer Engine's attention over packed sequences and its norm under sequence parallelism: torch's own;
- Megatron-Bridge, which builds the model and loads its weights: megatron-core's `GPTModel` with its own layers.

The schedules, the tensor and pipeline parallelism, the optimizer and all of verl's engine are theirs. Nothing of DGPO
is in this file.
"""

import contextlib
import sys
import types

import torch
import torch.distributed as dist
from megatron.core import parallel_state as mpu
from megatron.core import tensor_parallel
from megatron.core.distributed import DistributedDataParallel, DistributedDataParallelConfig
from megatron.core.models.gpt import GPTModel
from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_local_spec
from megatron.core.tensor_parallel import layers, random
from megatron.core.transformer import TransformerConfig
from megatron.core.transformer.transformer_block import TransformerBlockSubmodules, get_num_layers_to_build
from torch.overrides import TorchFunctionMode
from verl.utils.megatron_utils import get_model, unwrap_model
from verl.workers.config.engine import McoreEngineConfig


class _OnTheCpu(TorchFunctionMode):
    """Makes on the CPU what asks for the device "cuda"."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if str(kwargs.get("device", "")).startswith("cuda"):
            kwargs["device"] = "cpu"
        return function(*args, **kwargs)


class _NoRandomStates:
    """Nothing is dropped and nothing is initialized at random in parallel: no states of a generator are needed."""

    @contextlib.contextmanager
    def fork(self, *args):
        yield


def install():
    """Make this process's Megatron one of the CPU; float32 in place of verl's two half precisions."""
    _OnTheCpu().__enter__()
    torch.cuda.current_device, torch.cuda.synchronize = lambda: torch.device("cpu"), lambda: None
    torch.Tensor.cuda = lambda tensor, *args, **kwargs: tensor
    tracker = _NoRandomStates()
    for module in (random, layers, tensor_parallel):
        module.get_cuda_rng_tracker = lambda *args, **kwargs: tracker
    tensor_parallel.model_parallel_cuda_manual_seed = torch.manual_seed
    checked = McoreEngineConfig.__post_init__

    def post_init(config):
        checked(config)
        object.__setattr__(config, "dtype", "float32")

    McoreEngineConfig.__post_init__ = post_init
    bridge = types.ModuleType("verl.models.mcore.mbridge")
    bridge.AutoBridge, bridge.freeze_moe_router, bridge.make_value_model = Bridge, None, None
    sys.modules[bridge.__name__] = bridge


class PackedAttention(torch.nn.Module):
    """Causal attention inside of each of the sequences that are packed into one."""

    def __init__(self, config, layer_number, attn_mask_type, attention_type, **kwargs):
        super().__init__()

    def forward(self, query, key, value, attention_mask, attn_mask_type=None, packed_seq_params=None, **kwargs):
        outputs, groups = [], query.shape[1] // key.shape[1]
        sizes = packed_seq_params.cu_seqlens_q_padded.diff().tolist()
        for q, k, v in zip(*(x.split(sizes) for x in (query, key, value)), strict=True):
            k, v = (x.repeat_interleave(groups, dim=1) for x in (k, v))
            heads = (x.transpose(0, 1) for x in (q, k, v))
            out = torch.nn.functional.scaled_dot_product_attention(*heads, is_causal=True)
            outputs.append(out.transpose(0, 1).flatten(1))
        return torch.cat(outputs)


class Norm(torch.nn.RMSNorm):
    """Under sequence parallelism each rank has the gradient of its tokens; megatron-core sums what is marked so."""

    def __init__(self, config, hidden_size, eps=1e-6, **kwargs):
        super().__init__(hidden_size, eps=eps)
        self.weight.sequence_parallel = config.sequence_parallel


class Bridge:
    """Builds Qwen2 from a transformers configuration and loads its weights, as mbridge does with other layers."""

    @classmethod
    def from_config(cls, hf_config, dtype):
        bridge = cls()
        bridge.hf_config, bridge.extra = hf_config, {}
        return bridge

    def set_extra_args(self, **extra):
        self.extra = {name: value for name, value in extra.items() if name != "attention_backend"}

    @property
    def config(self):
        if not hasattr(self, "_config"):
            hf = self.hf_config
            self._config = TransformerConfig(
                num_layers=hf.num_hidden_layers,
                hidden_size=hf.hidden_size,
                ffn_hidden_size=hf.intermediate_size,
                num_attention_heads=hf.num_attention_heads,
                num_query_groups=hf.num_key_value_heads,
                layernorm_epsilon=hf.rms_norm_eps,
                normalization="RMSNorm",
                activation_func=torch.nn.functional.silu,
                gated_linear_unit=True,
                add_qkv_bias=True,
                add_bias_linear=False,
                attention_dropout=0.0,
                hidden_dropout=0.0,
                bias_dropout_fusion=False,
                bias_activation_fusion=False,
                masked_softmax_fusion=False,
                use_cpu_initialization=True,
                pipeline_dtype=torch.float32,
                moe_token_dispatcher_type="alltoall",  # of no model here: the others refuse sequences of any length
                variable_seq_lengths=True,
                overlap_p2p_comm=mpu.get_virtual_pipeline_model_parallel_world_size() is not None,
                batch_p2p_comm=False,
                tensor_model_parallel_size=mpu.get_tensor_model_parallel_world_size(),
                pipeline_model_parallel_size=mpu.get_pipeline_model_parallel_world_size(),
                virtual_pipeline_model_parallel_size=mpu.get_virtual_pipeline_model_parallel_world_size(),
                **{name: value for name, value in self.extra.items() if value is not None},
            )
        return self._config

    def get_model(self, post_model_creation_callbacks, wrap_with_ddp, fp16, bf16, ddp_config):
        def provide(pre_process, post_process, vp_stage=None):
            layer = get_gpt_layer_local_spec(normalization="RMSNorm")
            layer.submodules.input_layernorm = layer.submodules.pre_mlp_layernorm = Norm
            layer.submodules.self_attention.submodules.core_attention = PackedAttention
            count = get_num_layers_to_build(self.config, vp_stage=vp_stage)
            return GPTModel(
                config=self.config,
                transformer_layer_spec=TransformerBlockSubmodules(layer_specs=[layer] * count, layer_norm=Norm),
                vocab_size=self.hf_config.vocab_size,
                max_sequence_length=self.hf_config.max_position_embeddings,
                pre_process=pre_process,
                post_process=post_process,
                position_embedding_type="rope",
                rotary_base=self.hf_config.rope_theta,
                share_embeddings_and_output_weights=self.hf_config.tie_word_embeddings,
                vp_stage=vp_stage,
            )

        chunks = get_model(provide, wrap_with_ddp=False, transformer_config=self.config)
        if not wrap_with_ddp:
            return chunks
        ddp = DistributedDataParallelConfig(**ddp_config)
        return [DistributedDataParallel(config=self.config, ddp_config=ddp, module=chunk) for chunk in chunks]

    def load_weights(self, modules, path):
        from safetensors.torch import load_file

        load(modules, load_file(f"{path}/model.safetensors"), self.hf_config)


@torch.no_grad()
def load(modules, state, hf_config):
    """Copy a transformers model's state into this rank's part of a Megatron model."""
    for name, parameter in parameters(modules):
        parameter.copy_(shard(name, state, hf_config))


def parameters(modules):
    """Yield the parameters of this rank; layers by their number in the whole model."""
    for module in unwrap_model(modules):
        for name, parameter in module.named_parameters():
            if name.startswith("decoder.layers."):
                _, _, index, rest = name.split(".", 3)
                yield f"{module.decoder.layers[int(index)].layer_number - 1}.{rest}", parameter
            else:
                yield name, parameter


def shard(name, state, hf_config):
    """This rank's part of a parameter of Megatron's, from a transformers model's state (or gradients)."""
    rank, ranks = mpu.get_tensor_model_parallel_rank(), mpu.get_tensor_model_parallel_world_size()
    if name == "embedding.word_embeddings.weight":
        return state["model.embed_tokens.weight"].chunk(ranks)[rank]
    if name == "output_layer.weight":
        tied = hf_config.tie_word_embeddings
        return state["model.embed_tokens.weight" if tied else "lm_head.weight"].chunk(ranks)[rank]
    if name == "decoder.final_layernorm.weight":
        return state["model.norm.weight"]
    index, name = name.split(".", 1)
    layer = {key.removeprefix(f"model.layers.{index}."): value for key, value in state.items()}
    if name == "input_layernorm.weight":
        return layer[name]
    if name == "pre_mlp_layernorm.weight":
        return layer["post_attention_layernorm.weight"]
    if name.startswith("self_attention.linear_qkv."):
        kind, groups = name.rpartition(".")[2], hf_config.num_key_value_heads
        parts = [layer[f"self_attn.{part}_proj.{kind}"].chunk(groups) for part in "qkv"]
        return torch.cat([torch.cat(group) for group in zip(*parts, strict=True)]).chunk(ranks)[rank]
    if name == "self_attention.linear_proj.weight":
        return layer["self_attn.o_proj.weight"].chunk(ranks, dim=1)[rank]
    if name == "mlp.linear_fc1.weight":
        return torch.cat([layer[f"mlp.{part}_proj.weight"].chunk(ranks)[rank] for part in ("gate", "up")])
    assert name == "mlp.linear_fc2.weight", name
    return layer["mlp.down_proj.weight"].chunk(ranks, dim=1)[rank]


def end():
    """Forget Megatron's groups, so that others can be made in this process."""
    dist.barrier()
    mpu.destroy_model_parallel()
