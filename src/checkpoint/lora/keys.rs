//! What the name of a tensor in an adapter file says: its module and its role.

/// What a tensor is to its module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// `[rank, inputs]`, of a convolution `[rank, inputs, kh, kw]`.
    Down,
    /// `[outputs, rank]`, of a convolution `[outputs, rank, 1, 1]`.
    Up,
    /// The kernel `[rank, rank, kh, kw]` between two 1x1 convolutions.
    Mid,
    /// A number; the product counts alpha / rank times.
    Alpha,
}

/// Ends of names: kohya's, peft's (once with the adapter's own name), diffusers' of
/// the UNet and of text encoders, and those of diffusers' old attention processors.
const ENDS: [(&str, Role); 15] = [
    (".lora_down.weight", Role::Down),
    (".lora_up.weight", Role::Up),
    (".lora_mid.weight", Role::Mid),
    (".lora_A.weight", Role::Down),
    (".lora_B.weight", Role::Up),
    (".lora_A.default.weight", Role::Down),
    (".lora_B.default.weight", Role::Up),
    (".lora.down.weight", Role::Down),
    (".lora.up.weight", Role::Up),
    (".lora_linear_layer.down.weight", Role::Down),
    (".lora_linear_layer.up.weight", Role::Up),
    ("_lora.down.weight", Role::Down),
    ("_lora.up.weight", Role::Up),
    ("_lora.alpha", Role::Alpha),
    (".alpha", Role::Alpha),
];

/// Pieces of names, between dots, that only other kinds of adapters have; those with an
/// underscore at the end are beginnings.
const OTHERS: [(&str, &str); 16] = [
    ("hada_", "LoHa"),
    ("lokr_", "LoKr"),
    ("dora_scale", "DoRA"),
    ("lora_magnitude_vector", "DoRA"),
    ("on_input", "IA3"),
    ("ia3_", "IA3"),
    ("oft_", "OFT"),
    ("diff", "full differences"),
    ("diff_b", "full differences"),
    ("w_norm", "full differences of norms"),
    ("b_norm", "full differences of norms"),
    ("a1", "GLoRA"),
    ("scalar", "LoCon with a trained scalar"),
    ("lora_embedding_", "LoRA of embeddings"),
    ("lora_bias", "LoRA with biases"),
    ("lora_controlnet", "Control-LoRA"),
];

/// Ends of a LoRA's own biases.
const BIASES: [&str; 4] = [
    ".lora_B.bias",
    ".lora_B.default.bias",
    ".lora_up.bias",
    ".lora.up.bias",
];

/// The module, as the file writes it, and the role; `None` for names that are no
/// adapter's.
pub(super) fn split(key: &str) -> Option<(&str, Role)> {
    let mut ends = ENDS.iter();
    ends.find_map(|(end, role)| Some((key.strip_suffix(end)?, *role)))
}

/// The kind of adapter that alone has such a name, where it is none that can be read.
pub(super) fn other_kind(key: &str) -> Option<&'static str> {
    if BIASES.iter().any(|end| key.ends_with(end)) {
        return Some("LoRA with biases");
    }
    let kind = |piece: &str| {
        let mut others = OTHERS.iter();
        let is = |name: &str| match name.ends_with('_') {
            true => piece.starts_with(name),
            false => piece == name,
        };
        others.find_map(|(name, kind)| is(name).then_some(*kind))
    };
    key.split('.').find_map(kind)
}

/// A module's name as kohya writes it: dots become underscores. diffusers' attention
/// processors, which hold no weights of their own, are left out.
pub(super) fn flat(module: &str) -> String {
    module.replace('.', "_").replace("_processor_", "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_split_into_module_and_role() {
        let cases = [
            (
                "lora_unet_a_b.lora_down.weight",
                "lora_unet_a_b",
                Role::Down,
            ),
            ("unet.a.to_q.lora_B.weight", "unet.a.to_q", Role::Up),
            ("a.to_q.lora_A.default.weight", "a.to_q", Role::Down),
            ("a.to_q.lora.up.weight", "a.to_q", Role::Up),
            ("a.fc1.lora_linear_layer.down.weight", "a.fc1", Role::Down),
            (
                "attn1.processor.to_q_lora.up.weight",
                "attn1.processor.to_q",
                Role::Up,
            ),
            ("lora_te1_x.alpha", "lora_te1_x", Role::Alpha),
            ("a.to_q_lora.alpha", "a.to_q", Role::Alpha),
            ("x.lora_mid.weight", "x", Role::Mid),
        ];
        for (key, module, role) in cases {
            assert_eq!(split(key), Some((module, role)), "{key}");
            assert_eq!(other_kind(key), None, "{key}");
        }
        assert_eq!(split("conv_in.weight"), None);
        assert_eq!(other_kind("model.diffusion_model.out.0.bias"), None);
        assert_eq!(other_kind("x.hada_w1_a"), Some("LoHa"));
        assert_eq!(other_kind("x.diff"), Some("full differences"));
        assert_eq!(other_kind("x.lora_B.bias"), Some("LoRA with biases"));
        assert_eq!(flat("attn1.processor.to_q"), "attn1_to_q");
    }
}
