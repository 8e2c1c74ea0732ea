//! Tasks as they are packed by front ends and unpacked by workers, and ends on their way
//! back.

use super::broker::Broker;
use super::wire::{Drawing, End, Fault, Piece, Task};
use crate::error::{Canonical, Code, Remedies, Wording};
use crate::picture::{Format, Picture};
use crate::pipeline::{Portable, Request};
use crate::server::work::{Drawn, Failure, Made, Prepared};
use bytes::Bytes;
use std::path::Path;

const FORMATS: [Format; 3] = [Format::Png, Format::Jpeg, Format::Webp];

/// The files that go with a task, by their names.
pub type Files = Vec<(String, Vec<u8>)>;

/// What a task is about beside the request.
pub struct Label {
    pub task: String,
    pub front: String,
    pub request_id: String,
    /// The model's fingerprint.
    pub model: String,
}

/// A task for some pictures of an order, and the files that go with it, by their names.
///
/// # Errors
/// A picture cannot be written as a file.
pub fn pack(label: Label, prepared: &Prepared, request: &Request) -> crate::Result<(Task, Files)> {
    let portable = request.to_portable()?;
    let name = |i: usize| format!("{}-in-{i}", label.task);
    let files = portable.pictures.into_iter().enumerate();
    let files: Files = files.map(|(i, file)| (name(i), file)).collect();
    let task = Task {
        task: label.task,
        front: label.front,
        request_id: label.request_id,
        model: label.model,
        request: portable.request,
        pictures: files.iter().map(|(name, _)| name.clone()).collect(),
        format: prepared.format.extension().to_owned(),
        quality: prepared.quality,
        preview_every: prepared.preview_every,
    };
    Ok((task, files))
}

/// What a worker draws for a task, with the files that go with it and its own LoRAs.
///
/// # Errors
/// The task is of another version; a LoRA is not here.
pub fn unpack(
    task: &Task,
    files: Vec<Bytes>,
    model: usize,
    loras: Option<&Path>,
) -> Result<Prepared, Failure> {
    let portable = Portable {
        request: task.request.clone(),
        pictures: files.into_iter().map(Vec::from).collect(),
    };
    let mut request = Request::from_portable(portable)?;
    for lora in &mut request.loras {
        // Of this folder, whatever the task says.
        let name = lora.path.file_name().unwrap_or_default();
        let path = loras.map(|folder| folder.join(name));
        lora.path = path.filter(|path| path.is_file()).ok_or_else(|| {
            let name = lora.path.display();
            Failure::internal(format!(
                "the LoRA {name} is not in this worker's --lora-dir"
            ))
        })?;
    }
    let format = FORMATS.into_iter().find(|f| f.extension() == task.format);
    let format = format.ok_or_else(|| Failure::internal("a task of an unknown format"))?;
    Ok(Prepared {
        model,
        over_picture: request.image.is_some(),
        request,
        format,
        quality: task.quality,
        preview_every: task.preview_every,
        // The front end has them.
        warnings: Vec::new(),
    })
}

/// Keeps the pictures of a task and says where they are.
///
/// # Errors
/// The broker does not answer or has no room.
pub async fn send(
    broker: &Broker,
    start: &str,
    drawn: &Drawn,
) -> Result<Drawing, async_nats::Error> {
    let mut pictures = Vec::new();
    for (i, made) in drawn.pictures.iter().enumerate() {
        let object = format!("{start}-{i}");
        broker.put(&object, &made.bytes).await?;
        pictures.push(Piece {
            seed: made.seed,
            infotext: made.infotext.clone(),
            object,
        });
    }
    Ok(Drawing {
        pictures,
        interrupted: drawn.interrupted,
        settings: drawn.settings.clone(),
        warnings: drawn.warnings.clone(),
    })
}

/// Why a drawing is not taken.
pub enum Refusal {
    /// The broker does not answer.
    Later(String),
    Broken(String),
}

/// Fetches the pictures of a drawing of `request`, and looks whether they are.
///
/// # Errors
/// Pictures are missing, damaged, or not those that were asked for.
pub async fn fetch(
    broker: &Broker,
    drawing: &Drawing,
    request: &Request,
) -> Result<Vec<Made>, Refusal> {
    let broken = |why: &str| Refusal::Broken(why.to_owned());
    let seeds: Vec<u64> = drawing.pictures.iter().map(|piece| piece.seed).collect();
    let wanted = request.seeds();
    if !drawing.settings.is_object() {
        return Err(broken("no settings"));
    }
    match drawing.interrupted {
        false if seeds != wanted => return Err(broken("not the seeds that were asked for")),
        true if !seeds.iter().all(|seed| wanted.contains(seed)) => {
            return Err(broken("seeds that were not asked for"));
        }
        _ => {}
    }
    let size = match &request.overlay {
        Some(overlay) => (overlay.picture.width, overlay.picture.height),
        None => (request.width, request.height),
    };
    let mut pictures = Vec::new();
    for piece in &drawing.pictures {
        let bytes = match broker.get(&piece.object).await {
            Ok(bytes) => bytes,
            Err(error) if broker.is_up() => return Err(broken(&error.to_string())),
            Err(error) => return Err(Refusal::Later(error.to_string())),
        };
        let file = bytes.clone();
        let opened = tokio::task::spawn_blocking(move || Picture::from_bytes("image", &file)).await;
        match opened {
            Ok(Ok(picture)) if (picture.width, picture.height) == size => {}
            Ok(Ok(_)) => return Err(broken("a picture of another size")),
            Ok(Err(error)) => return Err(broken(&error.to_string())),
            Err(error) => return Err(broken(&error.to_string())),
        }
        pictures.push(Made {
            seed: piece.seed,
            bytes,
            infotext: piece.infotext.clone(),
            file: None,
        });
    }
    Ok(pictures)
}

/// A failure on its way back: another worker may do better where this one is to blame.
pub fn told(failure: &Failure) -> End {
    let (problem, remedy) = match failure {
        Failure::Internal => return End::Lost("it failed; its log says why".into()),
        Failure::Failed {
            problem, remedy, ..
        } => (problem.clone(), Canonical.remedies(remedy)),
        other => (other.to_string(), String::new()),
    };
    let invalid = match failure {
        Failure::Invalid {
            field,
            value,
            allowed,
        } => Some([field.to_string(), value.clone(), allowed.clone()]),
        _ => None,
    };
    End::Failed(Fault {
        code: failure.code().as_str().to_owned(),
        invalid,
        problem,
        remedy,
    })
}

/// A failure that came back.
pub fn heard(fault: Fault) -> Failure {
    if let Some([field, value, allowed]) = fault.invalid {
        return Failure::Invalid {
            field: field.into(),
            value,
            allowed,
        };
    }
    let code = Code::ALL.iter().find(|code| code.as_str() == fault.code);
    Failure::Failed {
        code: code.copied().unwrap_or(Code::Internal),
        problem: fault.problem,
        remedy: Remedies::from(fault.remedy),
    }
}
