//! What a request or the options of loading consist of, by name.

/// Declares [`Field`] with the canonical name of each.
macro_rules! fields {
    ($($field:ident = $name:literal,)*) => {
        /// A field of a request ([`crate::pipeline::RawRequest`]) or an option of
        /// loading ([`crate::pipeline::LoadOptions`]). What the user knows it as is the
        /// matter of the command line and of each front door.
        #[derive(Debug, Clone, PartialEq, Eq)]
        #[non_exhaustive]
        pub enum Field {
            $($field,)*
            /// Something that has one name everywhere, such as the number of a tensor's
            /// values, or a field that a front door names itself.
            Named(String),
        }

        impl Field {
            /// Every field that has a canonical name.
            pub const ALL: &[Field] = &[$(Field::$field),*];

            /// The canonical name.
            pub fn name(&self) -> &str {
                match self {
                    $(Field::$field => $name,)*
                    Field::Named(name) => name,
                }
            }
        }
    };
}

fields! {
    Prompt = "prompt",
    Prompt2 = "prompt_2",
    NegativePrompt = "negative_prompt",
    NegativePrompt2 = "negative_prompt_2",
    PromptWeighting = "prompt_weighting",
    Style = "style",
    StylesFile = "styles_file",
    ClipSkip = "clip_skip",
    Width = "width",
    Height = "height",
    // Width and height together.
    Size = "size",
    Preset = "preset",
    Steps = "steps",
    Scheduler = "scheduler",
    SchedulerOptions = "scheduler_options",
    GuidanceScale = "guidance_scale",
    GuidanceRescale = "guidance_rescale",
    GuidanceStart = "guidance_start",
    GuidanceEnd = "guidance_end",
    CacheInterval = "cache_interval",
    Seed = "seed",
    Rng = "rng",
    Samples = "samples",
    Refiner = "refiner",
    HighNoiseFraction = "high_noise_fraction",
    RefinerStrength = "refiner_strength",
    AestheticScore = "aesthetic_score",
    NegativeAestheticScore = "negative_aesthetic_score",
    OriginalSize = "original_size",
    CropsCoordsTopLeft = "crops_coords_top_left",
    TargetSize = "target_size",
    NegativeOriginalSize = "negative_original_size",
    NegativeCropsCoordsTopLeft = "negative_crops_coords_top_left",
    NegativeTargetSize = "negative_target_size",
    Strength = "strength",
    Fit = "fit",
    Image = "image",
    Mask = "mask",
    MaskBlur = "mask_blur",
    MaskedContent = "masked_content",
    KeepUnmasked = "keep_unmasked",
    PaddingMaskCrop = "padding_mask_crop",
    // Adapters, by file.
    Loras = "loras",
    // A tag `<lora:name:weight>` in a prompt.
    LoraTag = "LoRA tag",
    LoraDir = "lora_dir",
    LoraAllowUnmatched = "lora_allow_unmatched",
    // Textual inversions, by file or folder.
    Embeddings = "embeddings",
    Model = "model",
    Unet = "unet",
    Vae = "vae",
    PreviewVae = "preview_vae",
    Dtype = "dtype",
    Activations = "activations",
    Kernels = "kernels",
    Adapter = "adapter",
    Backend = "backend",
    Batch = "batch",
    LowMemory = "low_memory",
    Weights = "weights",
    MaxMemory = "max_memory",
    VaeTiling = "vae_tiling",
    // A part of a checkpoint whose graph is printed.
    Graph = "graph",
}

impl Field {
    /// Whether it belongs to the options of loading: a service's operator sets it, not
    /// the sender of a request.
    pub fn is_of_loading(&self) -> bool {
        use Field::*;
        matches!(
            self,
            Model
                | Unet
                | Vae
                | PreviewVae
                | Dtype
                | Activations
                | Kernels
                | Adapter
                | Backend
                | Batch
                | LowMemory
                | Weights
                | MaxMemory
                | VaeTiling
                | LoraDir
                | LoraAllowUnmatched
                | Embeddings
                | StylesFile
        )
    }
}

impl From<&str> for Field {
    /// The field of that canonical name, else [`Field::Named`].
    fn from(name: &str) -> Self {
        let known = Field::ALL.iter().find(|field| field.name() == name);
        known.cloned().unwrap_or_else(|| Field::Named(name.into()))
    }
}

impl From<String> for Field {
    fn from(name: String) -> Self {
        name.as_str().into()
    }
}

impl From<&String> for Field {
    fn from(name: &String) -> Self {
        name.as_str().into()
    }
}

impl From<&Field> for Field {
    fn from(field: &Field) -> Self {
        field.clone()
    }
}

impl std::fmt::Display for Field {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}
