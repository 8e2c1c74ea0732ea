//! What the page calls: [`open`] gives a [`Drawer`], whose `draw` gives PNG files.

use calotype::gpu::{AdapterChoice, Gpu};
use calotype::picture::Format;
use calotype::pipeline::{Cancel, Dtype, Event, LoadOptions, Observer, Pipeline, RawRequest};
use calotype::text::Styles;
use js_sys::Function;
use wasm_bindgen::prelude::*;

/// The embedded model on the browser's GPU.
#[wasm_bindgen]
pub struct Drawer {
    pipeline: Pipeline,
    cancel: Cancel,
}

/// Stops the picture that is being drawn.
#[wasm_bindgen]
pub struct Stop(Cancel);

#[wasm_bindgen]
impl Stop {
    pub fn stop(&self) {
        self.0.cancel();
    }
}

/// Opens the GPU and loads the embedded model. `precision` is `f16`, `f32`, or `auto`,
/// which is f16 where the browser's GPU has it.
///
/// # Errors
/// Where the browser has no WebGPU, or a page or system setting keeps it from it.
#[wasm_bindgen]
pub async fn open(precision: &str) -> Result<Drawer, JsError> {
    console_error_panic_hook::set_once();
    let dtype = match precision {
        "auto" => Dtype::Auto,
        "f16" => Dtype::F16,
        "f32" => Dtype::F32,
        other => {
            return Err(JsError::new(&format!(
                "precision {other:?}: auto, f16 or f32"
            )));
        }
    };
    let options = LoadOptions {
        model: "demo".into(),
        dtype,
        activations: dtype,
        ..Default::default()
    };
    let gpu = Gpu::open_async(&AdapterChoice::default()).await?;
    let cancel = Cancel::default();
    let mut observer = Observer {
        events: &mut |_| {},
        cancel: &cancel,
        trace: None,
        preview_every: 0,
    };
    let pipeline = Pipeline::load_on(gpu, &options, &mut observer)?;
    Ok(Drawer { pipeline, cancel })
}

#[wasm_bindgen]
impl Drawer {
    /// The adapter and what the kernels use of it, as JSON.
    pub fn device(&self) -> String {
        let gpu = self.pipeline.gpu();
        let can = gpu.capabilities();
        serde_json::json!({
            "name": gpu.info().name,
            "f16": can.shader_f16,
            "subgroups": can.subgroup,
            "precision": self.pipeline.storage_name(),
        })
        .to_string()
    }

    /// Stops what the next [`Self::draw`] draws.
    pub fn stop(&mut self) -> Stop {
        self.cancel = Cancel::default();
        Stop(self.cancel.clone())
    }

    /// Draws the picture of a request, JSON with the fields of `RawRequest`, and gives it
    /// as PNG. `progress` is called with what is being done and, in steps, with how many
    /// are done of how many; `preview` with PNGs of what the picture is coming to.
    ///
    /// # Errors
    /// What is wrong with the request, and what goes wrong on the device.
    pub async fn draw(
        &mut self,
        request: &str,
        progress: &Function,
        preview: &Function,
    ) -> Result<Vec<u8>, JsError> {
        let raw: RawRequest = serde_json::from_str(request)?;
        let request = self.pipeline.resolve(raw, &Styles::builtin())?;
        let cancel = self.cancel.clone();
        let mut observer = Observer {
            events: &mut |event| tell(event, progress, preview),
            cancel: &cancel,
            trace: None,
            preview_every: 4,
        };
        let output = self
            .pipeline
            .generate_async(&request, &mut observer)
            .await?;
        for warning in &output.warnings {
            say(progress, &format!("warning: {warning}"), 0, 0);
        }
        let picture = output.pictures.first();
        let picture = picture.ok_or_else(|| JsError::new("no picture was drawn"))?;
        Ok(Format::Png.encode(picture, None)?)
    }
}

fn tell(event: Event, progress: &Function, preview: &Function) {
    match event {
        Event::Loading { part } => say(progress, &format!("loading the {part}"), 0, 0),
        Event::Encoding => say(progress, "reading the prompt", 0, 0),
        Event::Step { index, total } => say(progress, "drawing", index, total),
        Event::Decoding { .. } => say(progress, "decoding", 0, 0),
        Event::Preview { picture, .. } => {
            if let Ok(png) = Format::Png.encode(&picture, None) {
                let png = js_sys::Uint8Array::from(&png[..]);
                // What the page's own functions throw is not the picture's fault.
                let _ = preview.call1(&JsValue::NULL, &png);
            }
        }
        Event::Warning(text) => say(progress, &format!("warning: {text}"), 0, 0),
        _ => {}
    }
}

fn say(progress: &Function, text: &str, done: usize, total: usize) {
    let [done, total] = [done, total].map(|n| JsValue::from(n as u32));
    // What the page's own functions throw is not the picture's fault.
    let _ = progress.call3(&JsValue::NULL, &text.into(), &done, &total);
}
