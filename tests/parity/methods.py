"""Every adapter method that the app has, by a name for the printed table: config objects of the real library."""

from adapters import (
    AdapterPlusConfig,
    BnConfig,
    CompacterConfig,
    CompacterPlusPlusConfig,
    ConfigUnion,
    DoRAConfig,
    DoubleSeqBnConfig,
    DoubleSeqBnInvConfig,
    IA3Config,
    LoRAConfig,
    LoReftConfig,
    MAMConfig,
    NoReftConfig,
    ParBnConfig,
    PrefixTuningConfig,
    PromptTuningConfig,
    SeqBnConfig,
    SeqBnInvConfig,
    UniPELTConfig,
)

EVERY_MATRIX = dict(attn_matrices=["q", "k", "v"], intermediate_lora=True, output_lora=True)
PREFIX = dict(prefix_length=5, bottleneck_size=7)


def general(**changes):
    """BnConfig with both places unless said otherwise."""
    fields = dict(mh_adapter=True, output_adapter=True, reduction_factor=3, non_linearity="relu")
    return BnConfig(**{**fields, **changes})


def bottlenecks():
    """Presets and each switch."""
    found = {
        "seq_bn": SeqBnConfig(),
        "seq_bn 2": SeqBnConfig(reduction_factor=2),
        "seq_bn 7": SeqBnConfig(reduction_factor=7),
        "seq_bn 0.5": SeqBnConfig(reduction_factor=0.5),
        "double_seq_bn": DoubleSeqBnConfig(reduction_factor=4),
        "par_bn": ParBnConfig(),
        "scaled_par_bn": ParBnConfig(scaling="learned"),
        "seq_bn_inv": SeqBnInvConfig(reduction_factor=4),
        "double_seq_bn_inv": DoubleSeqBnInvConfig(reduction_factor=4, inv_adapter_reduction_factor=3.0),
        "adapterplus": AdapterPlusConfig(stochastic_depth=0.0, reduction_factor=4),
        "adapterplus 96": AdapterPlusConfig(stochastic_depth=0.0),
        "seq_bn leave_out 0": SeqBnConfig(reduction_factor=4, leave_out=[0]),
        "double_seq_bn leave_out 1": DoubleSeqBnConfig(reduction_factor=4, leave_out=[1]),
        "seq_bn by layer": SeqBnConfig(reduction_factor={"0": 4, "2": 2.5, "default": 8}),
        "bn mh only": general(output_adapter=False, non_linearity="tanh"),
        "bn scaling 0.3": general(scaling=0.3, non_linearity="gelu"),
        "bn channel": general(scaling="channel", non_linearity="leakyrelu"),
        "bn gating": general(use_gating=True, non_linearity="gelu_new", ln_before=True),
        "bn ln_before": general(ln_before=True),
        "bn ln_after": general(ln_after=True, original_ln_before=True),
        "bn ln_after of sum": general(ln_after=True, adapter_residual_before_ln=True, ln_before=True),
        "bn residual of sum, no ln": general(adapter_residual_before_ln=True, use_gating=True),
        "par_bn gating ln": ParBnConfig(use_gating=True, ln_after=True, ln_before=True, mh_adapter=True),
        "par_bn no last ln": ParBnConfig(original_ln_after=False, reduction_factor=4),
        "compacter": CompacterConfig(reduction_factor=2),
        "compacter++": CompacterPlusPlusConfig(reduction_factor=2),
        "compacter own rules": CompacterConfig(reduction_factor=2, shared_phm_rule=False, phm_rank=2),
        "compacter own factors": CompacterConfig(
            reduction_factor=2, shared_phm_rule=False, factorized_phm_rule=True, phm_bias=False
        ),
        "compacter++ shared W": CompacterPlusPlusConfig(reduction_factor=2, shared_W_phm=True),
        "compacter++ shared factors": CompacterPlusPlusConfig(
            reduction_factor=2, factorized_phm_rule=True, phm_dim=2, learn_phm=False
        ),
        "compacter++ whole W": CompacterPlusPlusConfig(reduction_factor=2, factorized_phm_W=False),
        "compacter parallel": CompacterConfig(reduction_factor=2, is_parallel=True, scaling=2.0, use_gating=True),
    }  # fmt: skip
    for before in (False, True):
        for after in (False, True):
            for residual in (True, False, "post_add") if before else (True, False):
                name = f"bn original_ln {'before' if before else '-'} {'after' if after else '-'} residual {residual}"
                switches = dict(original_ln_before=before, original_ln_after=after, residual_before_ln=residual)
                found[name] = general(**switches, non_linearity="swish")
    return found


def low_rank():
    return {
        "lora": LoRAConfig(),
        "lora all": LoRAConfig(r=3, alpha=3, **EVERY_MATRIX),
        "lora alpha": LoRAConfig(r=4, alpha=16),
        "lora ffn": LoRAConfig(r=2, alpha=2, selfattn_lora=False, intermediate_lora=True, output_lora=True),
        "lora k": LoRAConfig(r=5, alpha=10, attn_matrices=["k"]),
        "lora gating": LoRAConfig(r=3, alpha=7, use_gating=True, **EVERY_MATRIX),
        "lora init bert": LoRAConfig(r=2, alpha=1, init_weights="bert", **EVERY_MATRIX),
        "lora init ia3": LoRAConfig(r=2, alpha=1, init_weights="ia3", attn_matrices=["q"]),
        "dora": DoRAConfig(),
        "dora all": DoRAConfig(r=3, alpha=2, **EVERY_MATRIX),
        "ia3": IA3Config(),
        "ia3 all": IA3Config(attn_matrices=["q", "k", "v"], output_lora=True, alpha=2),
        "ia3 gating": IA3Config(use_gating=True),
        "ia3 init bert": IA3Config(init_weights="bert"),
        "lora leave_out 0": LoRAConfig(r=2, alpha=1, leave_out=[0]),
        "ia3 leave_out 1": IA3Config(leave_out=[1]),
    }


def others():
    return {
        "prefix_tuning": PrefixTuningConfig(),
        "prefix_tuning short": PrefixTuningConfig(**PREFIX),
        "prefix_tuning relu": PrefixTuningConfig(prefix_length=1, bottleneck_size=3, non_linearity="relu"),
        "prefix_tuning_flat": PrefixTuningConfig(flat=True, prefix_length=6),
        "prefix_tuning gating": PrefixTuningConfig(use_gating=True, **PREFIX),
        "prefix_tuning two gates": PrefixTuningConfig(use_gating=True, shared_gating=False, flat=True, prefix_length=3),
        "prompt_tuning": PromptTuningConfig(),
        "prompt_tuning after bos": PromptTuningConfig(prompt_length=3, combine="prefix_after_bos"),
        "loreft": LoReftConfig(dropout=0.0),
        "loreft rank 3": LoReftConfig(dropout=0.0, r=3, suffix_positions=2, prefix_positions=1),
        "loreft tied": LoReftConfig(dropout=0.0, r=2, suffix_positions=2, tied_weights=True),
        "loreft overlap": LoReftConfig(dropout=0.0, r=2, prefix_positions=4, suffix_positions=3),
        "noreft": NoReftConfig(dropout=0.0),
        "noreft act": NoReftConfig(dropout=0.0, r=4, non_linearity="relu", suffix_positions=1),
        "noreft suffix only": NoReftConfig(dropout=0.0, r=2, prefix_positions=0, suffix_positions=2),
        "noreft one layer": NoReftConfig(dropout=0.0, r=2, layers=[0]),
        "mam": MAMConfig(PrefixTuningConfig(prefix_length=4, bottleneck_size=9), ParBnConfig()),
        "unipelt": UniPELTConfig(
            PrefixTuningConfig(use_gating=True, **PREFIX),
            SeqBnConfig(reduction_factor=4, use_gating=True),
            LoRAConfig(r=2, alpha=2, use_gating=True),
        ),
        "union lora + seq_bn_inv": ConfigUnion(LoRAConfig(r=2, alpha=3), SeqBnInvConfig(reduction_factor=4)),
        "union prompt + seq_bn": ConfigUnion(PromptTuningConfig(prompt_length=2), SeqBnConfig(reduction_factor=8)),
        "union noreft + prefix": ConfigUnion(
            NoReftConfig(dropout=0.0, suffix_positions=1), PrefixTuningConfig(flat=True, prefix_length=2)
        ),
        "union of bottlenecks": ConfigUnion(
            general(output_adapter=False), SeqBnConfig(reduction_factor=4, original_ln_before=False)
        ),
        "prefix_tuning leave_out 0": PrefixTuningConfig(leave_out=[0], **PREFIX),
    }  # fmt: skip


def methods():
    """name -> the config as the library writes it into adapter_config.json."""
    found = {**bottlenecks(), **low_rank(), **others()}
    return {name: config.to_dict() for name, config in found.items()}
