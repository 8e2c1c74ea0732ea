//! Requests that share UNet batches, against the same requests drawn alone.

use crate::case::{load, small_vae};
use calotype::picture::Picture;
use calotype::pipeline::{
    Cancel, Event, LoadOptions, Models, Observer, Output, Pipeline, RawRequest, Request, Watched,
};
use calotype::text::Styles;
use calotype::{Error, Result};

/// What makes it draw quickly.
fn options() -> LoadOptions {
    LoadOptions {
        model: "demo".into(),
        vae: Some(small_vae()),
        ..Default::default()
    }
}

fn raw(prompt: &str, seed: i128, samples: i64) -> RawRequest {
    RawRequest {
        prompt: Some(prompt.into()),
        width: Some(72),
        height: Some(64),
        steps: Some(3),
        seed: Some(seed),
        samples: Some(samples),
        scheduler: Some("Euler a".into()),
        ..Default::default()
    }
}

/// One with a negative prompt, one of two pictures without, and one of other sizes.
fn three() -> [RawRequest; 3] {
    [
        RawRequest {
            negative_prompt: Some("grey".into()),
            ..raw("a red circle", 5, 1)
        },
        raw("a green heart on a white background", 9, 2),
        RawRequest {
            original_size: Some([512, 256]),
            ..raw("", 40, 1)
        },
    ]
}

fn resolved(pipeline: &Pipeline, raws: impl IntoIterator<Item = RawRequest>) -> Vec<Request> {
    let styles = Styles::builtin();
    let raws = raws.into_iter();
    raws.map(|raw| pipeline.resolve(raw, &styles).unwrap())
        .collect()
}

/// What an observer heard, and what came of it.
struct Told {
    events: Vec<Event>,
    answer: Result<Output>,
}

impl Told {
    /// `index` and `total` of every step.
    fn steps(&self) -> Vec<(usize, usize)> {
        let steps = self.events.iter().filter_map(|event| match event {
            Event::Step { index, total } => Some((*index, *total)),
            _ => None,
        });
        steps.collect()
    }

    fn previews(&self) -> Vec<(usize, Picture)> {
        let previews = self.events.iter().filter_map(|event| match event {
            Event::Preview { index, picture } => Some((*index, picture.clone())),
            _ => None,
        });
        previews.collect()
    }

    fn pictures(&self) -> &[Picture] {
        &self.answer.as_ref().unwrap().pictures
    }
}

/// Draws `requests` together; `heard` is told of each event and whose it is.
fn together(
    pipeline: &mut Pipeline,
    requests: &[Request],
    preview_every: usize,
    heard: &dyn Fn(usize, &Event, &Cancel),
) -> Vec<Told> {
    let cancels: Vec<Cancel> = requests.iter().map(|_| Cancel::default()).collect();
    let mut events: Vec<Vec<Event>> = requests.iter().map(|_| Vec::new()).collect();
    let mut ears: Vec<Box<dyn FnMut(Event) + '_>> = Vec::new();
    for (i, (events, cancel)) in events.iter_mut().zip(&cancels).enumerate() {
        ears.push(Box::new(move |event| {
            heard(i, &event, cancel);
            events.push(event);
        }));
    }
    let observers = ears.iter_mut().zip(&cancels);
    let mut observers: Vec<Observer> = observers
        .map(|(ear, cancel)| Observer {
            events: ear,
            cancel,
            trace: None,
            preview_every,
        })
        .collect();
    let mut runs: Vec<Watched> = requests
        .iter()
        .zip(&mut observers)
        .map(|(request, observer)| Watched { request, observer })
        .collect();
    let answers = pipeline.generate_together(&mut runs);
    drop(runs);
    drop(observers);
    drop(ears);
    let pairs = events.into_iter().zip(answers);
    pairs
        .map(|(events, answer)| Told { events, answer })
        .collect()
}

fn quietly(pipeline: &mut Pipeline, requests: &[Request]) -> Vec<Told> {
    together(pipeline, requests, 0, &|_, _, _| {})
}

/// Each by itself, with its previews.
fn alone(pipeline: &mut Pipeline, requests: &[Request], preview_every: usize) -> Vec<Told> {
    let each = requests.iter().map(|request| {
        let mut events = Vec::new();
        let answer = pipeline.generate(
            request,
            &mut Observer {
                events: &mut |event| events.push(event),
                cancel: &Cancel::default(),
                trace: None,
                preview_every,
            },
        );
        Told { events, answer }
    });
    each.collect()
}

/// How many loops were made for what these heard: events of one step at the same place
/// follow one another where they share.
fn multiply_adds(told: &[Told]) -> u64 {
    let each = told.iter().map(|told| told.answer.as_ref().unwrap());
    each.map(|output| output.stats.unet_multiply_adds).sum()
}

#[test]
fn pictures_are_the_same_as_alone_and_everybody_hears_of_their_own() {
    let mut pipeline = load(&options()).unwrap();
    for (scheduler, guidance, cache) in
        [("Euler a", 5.0, 1), ("DPM++ 2M", 5.0, 2), ("Euler", 1.0, 1)]
    {
        let raws = three().map(|raw| RawRequest {
            scheduler: Some(scheduler.into()),
            guidance_scale: Some(guidance),
            cache_interval: Some(cache),
            ..raw
        });
        let requests = resolved(&pipeline, raws);
        let single = alone(&mut pipeline, &requests, 2);
        let shared = together(&mut pipeline, &requests, 2, &|_, _, _| {});
        assert_eq!(multiply_adds(&single), multiply_adds(&shared));
        for (i, (single, shared)) in single.iter().zip(&shared).enumerate() {
            let label = format!("{scheduler}, request {i}");
            assert!(single.pictures() == shared.pictures(), "{label}");
            assert_eq!(single.steps(), shared.steps(), "{label}");
            assert!(single.previews() == shared.previews(), "{label}");
            let [a, b] = [single, shared].map(|told| told.answer.as_ref().unwrap());
            assert_eq!((&a.seeds, &a.warnings), (&b.seeds, &b.warnings), "{label}");
            assert!(
                !b.interrupted && b.stats.loop_buffers_created == 0,
                "{label}"
            );
            assert_eq!(b.stats.loop_pipelines_created, 0, "{label}");
        }
        let previews: Vec<usize> = shared[1].previews().iter().map(|(i, _)| *i).collect();
        assert_eq!(previews, [0, 1]);
        assert_eq!(shared[1].steps(), [(0, 6), (2, 6), (4, 6), (6, 6)]);
    }
}
