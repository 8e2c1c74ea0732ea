//! Requests that share UNet batches, against the same requests drawn alone.

use crate::case::{load, small_vae};
use crate::spoilt::{Model, UNET, widen};
use crate::tensors::Tensors;
use calotype::picture::Picture;
use calotype::pipeline::{
    Cancel, Dtype, Event, LoadOptions, Models, Observer, Output, Pipeline, RawRequest, Request,
    Watched,
};
use calotype::text::Styles;
use calotype::{Error, Result};
use std::cell::{Cell, RefCell};
use std::sync::Arc;

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
        steps: Some(2),
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

/// Of all UNet calls for all of them.
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
            assert!(!b.interrupted, "{label}");
        }
        let previews: Vec<usize> = shared[1].previews().iter().map(|(i, _)| *i).collect();
        assert_eq!(previews, [0, 1]);
        assert_eq!(shared[1].steps(), [(0, 4), (2, 4), (4, 4)]);
    }
}

/// Whether two requests took their steps in turns.
fn take_turns(log: &[(usize, usize)]) -> bool {
    let changes = log.windows(2).filter(|pair| pair[0].0 != pair[1].0);
    changes.count() > 2
}

/// Draws and keeps a log of whose step was done when; the first ones are not noted.
fn logged(pipeline: &mut Pipeline, requests: &[Request]) -> (Vec<Told>, Vec<(usize, usize)>) {
    let log = RefCell::new(Vec::new());
    let told = together(pipeline, requests, 0, &|i, event, _| {
        if let Event::Step { index: 1.., .. } = event {
            let step = log.borrow().iter().filter(|(own, _)| *own == i).count();
            log.borrow_mut().push((i, step));
        }
    });
    (told, log.into_inner())
}

#[test]
fn what_does_not_go_together_is_drawn_apart() {
    let mut pipeline = load(&options()).unwrap();
    let long = "a red circle and a green heart ".repeat(12);
    // In two steps an edit is never seen.
    let edited = |prompt: &str| RawRequest {
        steps: Some(3),
        ..raw(prompt, 3, 1)
    };
    let plain = || raw("a blue square", 7, 1);
    let requests = resolved(&pipeline, [plain()]);
    let plain_alone = alone(&mut pipeline, &requests, 0);
    for (other, shares) in [
        (raw("a white cross", 1, 1), true),
        (raw(&long, 1, 1), false),
        (raw("a red circle AND a blue square", 1, 1), false),
        (
            RawRequest {
                width: Some(64),
                ..plain()
            },
            false,
        ),
    ] {
        let requests = resolved(&pipeline, [plain(), other]);
        let other_alone = alone(&mut pipeline, &requests[1..], 0);
        let (told, log) = logged(&mut pipeline, &requests);
        let label = &requests[1].prompt;
        assert_eq!(take_turns(&log), shares, "{label}: {log:?}");
        for (single, told) in plain_alone.iter().chain(&other_alone).zip(&told) {
            assert!(single.pictures() == told.pictures(), "{label}");
            assert_eq!(single.steps(), told.steps(), "{label}");
        }
    }
    // Edits at the same steps go together, and with nothing else.
    for (pair, shares) in [
        (
            ["a [red:blue:0.5] circle", "a [green:white:0.5] heart"],
            true,
        ),
        (["a [red:blue:0.5] circle", "a heart"], false),
    ] {
        let requests = resolved(&pipeline, pair.map(edited));
        let single = alone(&mut pipeline, &requests, 0);
        let (told, log) = logged(&mut pipeline, &requests);
        assert_eq!(take_turns(&log), shares, "{pair:?}: {log:?}");
        for (single, told) in single.iter().zip(&told) {
            assert!(single.pictures() == told.pictures(), "{pair:?}");
        }
    }
}

#[test]
fn one_who_cancels_leaves_the_others_going_on() {
    let mut pipeline = load(&options()).unwrap();
    let requests = resolved(&pipeline, three());
    let single = alone(&mut pipeline, &requests, 0);
    // Before its first step, and after one.
    for at in [0, 2] {
        let told = together(&mut pipeline, &requests, 0, &|i, event, cancel| {
            if let (1, Event::Step { index, .. }) = (i, event)
                && *index == at
            {
                cancel.cancel();
            }
        });
        assert!(matches!(told[1].answer, Err(Error::Cancelled)));
        assert_eq!(told[1].steps().last(), Some(&(at, 4)));
        for i in [0, 2] {
            assert!(told[i].pictures() == single[i].pictures(), "request {i}");
            assert_eq!(told[i].steps(), single[i].steps());
            assert!(!told[i].answer.as_ref().unwrap().interrupted);
        }
    }
    // All of them stop at once.
    let (told, steps) = {
        let steps = RefCell::new(0);
        let told = together(&mut pipeline, &requests, 0, &|_, event, cancel| {
            if let Event::Step { index: 1.., .. } = event {
                *steps.borrow_mut() += 1;
                cancel.cancel();
            }
        });
        (told, steps.into_inner())
    };
    assert_eq!(steps, 3);
    let cancelled = |told: &Told| matches!(told.answer, Err(Error::Cancelled));
    assert!(told.iter().all(cancelled));
}

/// As a request that is alone and is asked the same.
#[test]
fn one_who_finishes_or_skips_ends_its_own_pictures() {
    let mut pipeline = load(&options()).unwrap();
    let requests = resolved(&pipeline, three());
    let single = alone(&mut pipeline, &requests, 0);
    for (finishes, batch) in [(true, None), (true, Some(2)), (false, Some(2))] {
        let options = LoadOptions { batch, ..options() };
        let mut pipeline = load(&options).unwrap();
        // After its first step.
        let asked = Cell::new(false);
        let asks = |event: &Event, cancel: &Cancel| {
            if let (Event::Step { index: 1.., .. }, false) = (event, asked.get()) {
                asked.set(true);
                match finishes {
                    true => cancel.finish(),
                    false => cancel.skip(),
                }
            }
        };
        let by_itself = together(&mut pipeline, &requests[1..2], 0, &|_, event, cancel| {
            asks(event, cancel);
        });
        asked.set(false);
        let told = together(&mut pipeline, &requests, 0, &|i, event, cancel| {
            if i == 1 {
                asks(event, cancel);
            }
        });
        let label = format!("finishes {finishes}, {batch:?}");
        for i in [0, 2] {
            assert!(told[i].pictures() == single[i].pictures(), "{label} {i}");
            assert_eq!(told[i].steps(), single[i].steps(), "{label}");
            assert!(!told[i].answer.as_ref().unwrap().interrupted, "{label}");
        }
        let output = told[1].answer.as_ref().unwrap();
        assert!(output.interrupted, "{label}");
        let shares_all = batch.is_none();
        if shares_all {
            let by_itself = by_itself[0].answer.as_ref().unwrap();
            assert!(output.pictures == by_itself.pictures, "{label}");
            assert_eq!(output.seeds, by_itself.seeds, "{label}");
            assert!(output.pictures != single[1].pictures(), "{label}");
        } else if finishes {
            // Its other picture had not begun.
            assert_eq!(output.seeds, [9], "{label}");
        } else {
            // Its other picture goes on in the next batch.
            assert_eq!(output.seeds, [9, 10], "{label}");
            assert!(output.pictures[1] == single[1].pictures()[1], "{label}");
        }
    }
}

#[test]
fn what_goes_wrong_with_one_is_its_answer_alone() {
    let mut pipeline = load(&options()).unwrap();
    let [first, second, third] = three();
    let wrong = RawRequest {
        prompt: Some("a circle in embedding:nobody-knows".into()),
        ..raw("", 1, 1)
    };
    let skips = RawRequest {
        clip_skip: Some(9),
        ..raw("a circle", 1, 1)
    };
    let requests = resolved(&pipeline, [first, wrong, second, skips, third]);
    let single = alone(&mut pipeline, &requests, 0);
    let told = quietly(&mut pipeline, &requests);
    for (i, (single, told)) in single.iter().zip(&told).enumerate() {
        match (&single.answer, &told.answer) {
            (Ok(a), Ok(b)) => {
                assert!(a.pictures == b.pictures && i % 2 == 0, "{i}");
                let made = [b.stats.loop_buffers_created, b.stats.loop_pipelines_created];
                assert_eq!(made, [0, 0], "{i}");
            }
            (Err(a), Err(b)) => assert!(a.to_string() == b.to_string() && i % 2 == 1, "{i}"),
            (a, b) => panic!("{i}: {:?} {:?}", a.is_ok(), b.is_ok()),
        }
    }
}

/// A UNet whose embedding of sizes overflows where a picture's original height is large.
fn overflows_for_tall_originals(tensors: &mut Tensors) {
    let (_, shape, _) = &tensors["add_embedding.linear_1.weight"];
    let (rows, inputs) = (shape[0], shape[1]);
    // The sine of the lowest frequency is the last value of the first size.
    let place = inputs - 5 * WIDTH - 1;
    widen(tensors, "add_embedding.linear_1.weight", |i, x| match i {
        i if i == place => 3e37,
        i if i < inputs => 0.0,
        _ => x,
    });
    widen(tensors, "add_embedding.linear_1.bias", |i, x| match i {
        0 => -1.5e37,
        _ => x,
    });
    widen(tensors, "add_embedding.linear_2.weight", |i, x| {
        match i % rows {
            0 => 1e6,
            _ => x,
        }
    });
}

/// Numbers of a size's embedding.
const WIDTH: usize = 256;

#[test]
fn numbers_that_are_not_finite_are_blamed_on_whose_they_are() {
    let model = Model::base().change(UNET, overflows_for_tall_originals);
    let mut pipeline = load(&LoadOptions {
        model: model.path().into(),
        dtype: Dtype::F32,
        activations: Dtype::F32,
        ..options()
    })
    .unwrap();
    let half = (WIDTH / 2) as f32;
    let frequency = 10_000f32.powf(-(half - 1.0) / half);
    let tall = (std::f32::consts::FRAC_PI_2 / frequency) as i64;
    let of = |height, raw| RawRequest {
        original_size: Some([height, 64]),
        ..raw
    };
    let [first, second, third] = three();
    let raws = [of(64, first), of(tall, second), of(64, third)];
    let requests = resolved(&pipeline, raws);
    let single = alone(&mut pipeline, &requests, 0);
    let told = quietly(&mut pipeline, &requests);
    for i in [0, 2] {
        assert!(told[i].pictures() == single[i].pictures(), "request {i}");
    }
    let said = told[1].answer.as_ref().unwrap_err().to_string();
    assert!(said.contains("UNet at step 1 of 2"), "{said}");
    assert_eq!(said, single[1].answer.as_ref().unwrap_err().to_string());
}

#[test]
fn models_draw_together_too() {
    let mut observer = Observer {
        events: &mut |_| {},
        cancel: &Cancel::default(),
        trace: None,
        preview_every: 0,
    };
    let mut models = Models::open(vec![options()], &mut observer).unwrap();
    let pipeline = models.pipeline(0, &mut observer).unwrap();
    let requests = resolved(pipeline, [raw("a red circle", 1, 1), raw("a heart", 2, 1)]);
    let single = alone(pipeline, &requests, 0);
    let mut ears = [|_: Event| {}, |_: Event| {}];
    let cancels = [Cancel::default(), Cancel::default()];
    let observers = ears.iter_mut().zip(&cancels);
    let mut observers: Vec<Observer> = observers
        .map(|(events, cancel)| Observer {
            events,
            cancel,
            trace: None,
            preview_every: 0,
        })
        .collect();
    let mut runs: Vec<Watched> = requests
        .iter()
        .zip(&mut observers)
        .map(|(request, observer)| Watched { request, observer })
        .collect();
    let answers = models.generate_together(0, &mut runs);
    for (answer, single) in answers.iter().zip(&single) {
        assert!(answer.as_ref().unwrap().pictures == single.pictures());
    }
}

#[test]
fn refined_pictures_and_those_from_pictures_go_together_too() {
    let mut pipeline = load(&LoadOptions {
        refiner: Some("demo".into()),
        vae: None,
        ..options()
    })
    .unwrap();
    let picture = |shade: u8| {
        let rgb = (0..3 * 72 * 64).map(|i| (i % 251) as u8 / 2 + shade);
        Some(Arc::new(Picture {
            width: 72,
            height: 64,
            rgb: rgb.collect(),
        }))
    };
    type Change = fn(RawRequest) -> RawRequest;
    let changes: [Change; 2] = [
        |raw| RawRequest {
            high_noise_fraction: Some(0.5),
            ..raw
        },
        |raw| RawRequest {
            refiner_strength: Some(0.5),
            ..raw
        },
    ];
    for (change, from) in changes.into_iter().zip([false, true]) {
        let of = |raw, shade| RawRequest {
            image: picture(shade).filter(|_| from),
            strength: from.then_some(0.5),
            ..change(raw)
        };
        let raws = [
            of(raw("a red circle", 1, 1), 20),
            of(raw("a heart", 2, 1), 90),
        ];
        let requests = resolved(&pipeline, raws);
        let single = alone(&mut pipeline, &requests, 0);
        let (told, log) = logged(&mut pipeline, &requests);
        assert!(take_turns(&log), "{log:?}");
        for (single, told) in single.iter().zip(&told) {
            assert!(single.pictures() == told.pictures(), "{from}");
            assert_eq!(single.steps(), told.steps(), "{from}");
        }
    }
}
