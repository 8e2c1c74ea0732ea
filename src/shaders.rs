//! The texts of `shaders/`: data, below every room.

/// A shader's name, without the extension, and its text.
pub type Source = (&'static str, &'static str);

macro_rules! shaders {
    ($($name:literal),* $(,)?) => {
        /// Every file of `shaders/`, by name.
        pub static SHADERS: &[Source] = &[
            $(($name, include_str!(concat!("../shaders/", $name, ".wgsl")))),*
        ];
    };
}

shaders!(
    "activation",
    "attention",
    "attention_coop",
    "attention_params",
    "bounded",
    "expand",
    "first_not_finite",
    "group_norm_apply",
    "group_norm_finish",
    "group_norm_stats",
    "guidance",
    "guidance_rescale",
    "halves",
    "latent_input",
    "latent_mask",
    "latent_threshold",
    "latent_update",
    "layer_norm",
    "layout",
    "map",
    "moments",
    "narrow",
    "narrow_factor",
    "narrow_largest",
    "peak_dot",
    "peak_fma",
    "peak_launch",
    "peak_matrix",
    "peak_memory",
    "peak_params",
    "peak_shared",
    "product",
    "product_coop",
    "product_direct",
    "product_sum",
    "product_tiled",
    "reduce",
    "sinusoid",
    "softmax",
    "step",
    "storage",
    "subgroup_size",
    "transpose",
);
