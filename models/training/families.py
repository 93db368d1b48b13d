"""What programs and faults have in common: families of programs, and how a fault sets in."""

FAMILIES = {
    "linear models and perceptrons": """cancer_table deep_kernel diabetes_likelihood
        diabetes_regression lbfgs_digits linear_least_squares mlp_fashion moe_regression
        quadratic_bowl softmax_digits sparse_parity teacher_student visits_poisson
        wide_mlp_fashion wine_full_batch""",
    "convolutional networks": """cnn_bn_fashion cnn_fashion detect_digits distil_fashion
        mixer_fashion mnist_adadelta names_cnn pointnet_fashion qat_fashion resnet_digits
        resnet_plain_digits segment_scenes superres_photos unet_photo""",
    "recurrent networks and sequences": """elnino_ssm gru_words lstm_chars
        rnn_chars_sgd seq2seq_reverse speech_ctc speech_predict sunspots_lstm tagger_text
        tcn_series translate_french word_language_model""",
    "transformers": """lora_fortunes masked_words nanogpt_bytes transformer_bytes
        transformer_postnorm transformer_prenorm vit_digits""",
    "generative, not adversarial": """autoencoder_digits diffusion_digits diffusion_moons
        flow_rings gumbel_vae style_transfer vae_fashion vqvae_digits""",
    "adversarial and energy models": """dcgan_fashion energy_rings gan_digits gan_generator
        wgan_gp_digits wgan_rings""",
    "self-supervised and metric": """byol_fashion contrastive_digits dino_digits fixmatch_digits
        metric_fashion siamese_fashion""",
    "reinforcement learning": """actor_critic_chase ddpg_pendulum dqn_corridor grpo_letters
        ppo_pendulum reinforce_balance""",
    "embeddings and graphs": """factorisation_machine glove_sparse graph_network recommender
        word2vec wordnet_sage""",
    "fields and physics": """maml_waves neural_ode pinn_burgers siren_photo""",
    "local and phase-wise learning": "forward_forward layerwise_fashion",
}
_OF = {program: name for name, programs in FAMILIES.items() for program in programs.split()}

GRADUAL = frozenset(
    """lr_ramp lr_creep label_noise loss_scale_growth weight_decay momentum no_zero_grad
    delayed_gradients epsilon coarse_weights sorted_data repeated stuck_loader imbalance
    embedding_collapse bad_augmentation overconfident frozen_layers eval_statistics leakage""".split()
)
"""Faults whose harm builds up over many steps, be the cause itself sudden."""

FROM_THE_START = frozenset(
    """lr_high no_warmup init_scale init_layer missing_norm unnormalised sum_reduction activation
    loss_power dead_layer""".split()
)
"""Faults that are there from the first step on: nothing changes, so neither sudden nor gradual."""

SHOCK = frozenset(
    """lr_jump lr_spike nan_batch weight_corruption gradient_corruption optimizer_state bit_flip
    stale_checkpoint corrupted_batches target_scale low_precision ascent sign_flip
    undivided""".split()
)
"""Faults that hit from one step to the next."""


def family(program: str) -> str:
    """The family of a program."""
    return _OF.get(program, "others")


def manner(event: str) -> str:
    """How a fault sets in: "shock", "gradual", "from the start" or "benign"."""
    for name, events in (
        ("shock", SHOCK),
        ("gradual", GRADUAL),
        ("from the start", FROM_THE_START),
    ):
        if event in events:
            return name
    return "benign"
