//! Requests carried out together: which of them go through the UNet in one batch, who
//! waits for which pictures, and what happens where one of them, or all, fail.

use super::condition::{self, Conditionings};
use super::denoise::Tally;
use super::route::Route;
use super::{Event, Observer, Output, Pipeline, Request, Seconds};
use crate::gpu::block_on;
use crate::{Error, Result};
use web_time::Instant;

/// A request, and who waits for its pictures.
pub struct Watched<'w, 'o> {
    pub request: &'w Request,
    pub observer: &'w mut Observer<'o>,
}

/// A request under way.
pub(super) struct Member<'m, 'o> {
    pub request: &'m Request,
    pub observer: &'m mut Observer<'o>,
    /// Once there is one.
    pub answer: Option<Result<Output>>,
    /// Memory that was short in attempts before.
    shortages: Vec<String>,
    pub now: Attempt,
}

/// What an attempt at a request has come to.
#[derive(Default)]
pub(super) struct Attempt {
    pub warnings: Vec<String>,
    pub seconds: Seconds,
    pub tally: Tally,
    /// UNet steps of all its pictures, and how many are done.
    pub total: usize,
    pub done: usize,
    /// It has heard that steps begin.
    pub has_begun: bool,
    /// What previews are made with gives numbers that are not finite.
    pub no_previews: bool,
    /// It was asked to finish: what has not begun is left out.
    pub has_quit: bool,
}

impl<'m, 'o> Member<'m, 'o> {
    pub fn new(request: &'m Request, observer: &'m mut Observer<'o>) -> Self {
        Self {
            request,
            observer,
            answer: None,
            shortages: Vec::new(),
            now: Attempt::default(),
        }
    }

    /// Of each of `runs`.
    pub fn all<'w: 'm>(runs: &'m mut [Watched<'w, 'o>]) -> Vec<Self> {
        let runs = runs.iter_mut();
        runs.map(|run| Self::new(run.request, run.observer))
            .collect()
    }

    /// Whether it still waits for its answer.
    pub fn is_open(&self) -> bool {
        self.answer.is_none()
    }

    /// Tells its observer.
    pub fn tell(&mut self, event: Event) {
        (self.observer.events)(event);
    }

    pub fn is_cancelled(&self) -> bool {
        self.observer.cancel.is_cancelled()
    }

    /// Whether it wants previews that can be made.
    pub fn wants_previews(&self) -> bool {
        self.observer.preview_every > 0 && !self.now.no_previews
    }

    /// The answer, once everything is done.
    pub fn into_answer(self) -> Result<Output> {
        let none = || Error::internal("a request", "it was left without an answer");
        let mut output = self.answer.ok_or_else(none)??;
        output.warnings.extend(self.shortages);
        Ok(output)
    }

    /// Starts an attempt over.
    fn begin(&mut self, load: f64, warnings: Vec<String>) {
        self.now = Attempt {
            warnings,
            seconds: Seconds {
                load,
                ..Default::default()
            },
            ..Default::default()
        };
    }
}

/// The places of `who` whose members wait for their answers.
pub(super) fn open(members: &[Member<'_, '_>], who: &[usize]) -> Vec<usize> {
    let is_open = |i: &usize| members.get(*i).is_some_and(Member::is_open);
    who.iter().copied().filter(is_open).collect()
}

/// Groups of members that may share, as far as their requests say. Whoever wants a trace
/// is drawn alone.
pub(super) fn groups(members: &[Member<'_, '_>]) -> Vec<Vec<usize>> {
    let traced = |i: usize| members[i].observer.trace.is_some();
    let all: Vec<usize> = (0..members.len()).collect();
    partition(&all, |a, b| {
        !traced(a) && !traced(b) && members[a].request.may_share(members[b].request)
    })
}

/// `places` in groups, each of those that are `alike` the group's first.
fn partition(places: &[usize], alike: impl Fn(usize, usize) -> bool) -> Vec<Vec<usize>> {
    let mut groups: Vec<Vec<usize>> = Vec::new();
    for place in places {
        let fitting = |group: &&mut Vec<usize>| group.first().is_some_and(|a| alike(*a, *place));
        match groups.iter_mut().find(fitting) {
            Some(group) => group.push(*place),
            None => groups.push(vec![*place]),
        }
    }
    groups
}

impl Pipeline {
    /// Carries out a request, within the memory that there is (see [`Self::memory_plan`]).
    /// Where the device has less than it was thought to have, once more with a plan that
    /// needs less.
    pub fn generate(&mut self, request: &Request, observer: &mut Observer<'_>) -> Result<Output> {
        block_on(self.generate_async(request, observer))
    }

    /// As [`Self::generate`], without blocking.
    ///
    /// # Errors
    /// As [`Self::generate`].
    pub async fn generate_async(
        &mut self,
        request: &Request,
        observer: &mut Observer<'_>,
    ) -> Result<Output> {
        let mut members = [Member::new(request, observer)];
        self.draw_all(&mut members).await;
        let [member] = members;
        member.into_answer()
    }

    /// Carries out several requests, and gives an answer for each, in their order. Those
    /// that may share ([`Request::may_share`]) go through the UNet in the same batches,
    /// as many pictures at a time as memory allows, and as are fastest where that was
    /// measured (`batch` of the options says otherwise); the others are drawn one after another, as are those whose texts turn
    /// out to have another number of tokens or parts, or other edits, and those that are
    /// traced. Each picture is the one that [`Self::generate`] makes, to the bit.
    ///
    /// Every observer hears of its own request alone: steps, previews and pictures are
    /// counted in that. One that cancels, finishes or skips leaves the others going on;
    /// its place in a batch under way stays empty. What goes wrong with one request is its
    /// answer alone. Where a batch as a whole goes wrong (its numbers are not finite, say),
    /// its requests are drawn once more, apart, and steps are counted anew. Answers come
    /// when all is done. Of the seconds and the statistics of loops that were shared, each
    /// has the whole, but of the arithmetic its share.
    pub fn generate_together(&mut self, runs: &mut [Watched<'_, '_>]) -> Vec<Result<Output>> {
        let mut members = Member::all(runs);
        // A browser draws one request at a time.
        let drawn = block_on(async {
            self.draw_all(&mut members).await;
            Ok(())
        });
        if let Err(e) = drawn {
            answer_first(&mut members, &[0], e);
        }
        members.into_iter().map(Member::into_answer).collect()
    }

    async fn draw_all(&mut self, members: &mut [Member<'_, '_>]) {
        for group in groups(members) {
            while let Err(e) = self.draw(members, &group, true).await {
                answer_first(members, &group, e);
            }
        }
    }

    /// Draws members that may share until each has its answer. Takes plans that need less
    /// only if it `gives_up`.
    ///
    /// # Errors
    /// Out of memory where it does not: those without an answer may be drawn once there is
    /// more.
    pub(super) async fn draw(
        &mut self,
        members: &mut [Member<'_, '_>],
        who: &[usize],
        gives_up: bool,
    ) -> Result<()> {
        for i in open(members, who) {
            if let Err(e) = self.check(members[i].request) {
                members[i].answer = Some(Err(e));
            }
        }
        loop {
            let waiting = open(members, who);
            let Some(first) = waiting.first().map(|i| members[*i].request) else {
                return Ok(());
            };
            let samples = samples(members, &waiting);
            let plan = self.plan_for(first, samples);
            if let (false, Some(limit)) = (plan.fits, plan.limit) {
                let problem = self.too_little(&plan, limit);
                let why = (problem, waiting.len());
                return self.give_up(members, &waiting, why, gives_up).await;
            }
            self.adopt(plan);
            let count = waiting.len();
            let attempt = self.attempt(members, &waiting).await;
            let waiting = open(members, &waiting);
            let Err(e) = attempt else {
                return Ok(());
            };
            if !e.is_out_of_memory() {
                return self.give_up(members, &waiting, (e, count), gives_up).await;
            }
            if !gives_up {
                return Err(e);
            }
            if !self.gives_up_more(first, samples) {
                return self.give_up(members, &waiting, (e, count), gives_up).await;
            }
            tracing::warn!("{e}: trying with less memory\n{}", self.plan);
            for i in waiting {
                let said = format!("{e}: drawn with less memory");
                members[i].shortages.push(said);
            }
        }
    }

    /// After an error of `count` members that were drawn together: the answer where there
    /// was one. Of several, those that still wait are drawn apart, so that each has its own.
    async fn give_up(
        &mut self,
        members: &mut [Member<'_, '_>],
        waiting: &[usize],
        (error, count): (Error, usize),
        gives_up: bool,
    ) -> Result<()> {
        if count < 2 {
            answer_first(members, waiting, error);
            return Ok(());
        }
        tracing::warn!("{error}: {} requests are drawn apart", waiting.len());
        for i in waiting {
            Box::pin(self.draw(members, &[*i], gives_up)).await?;
        }
        Ok(())
    }

    /// Draws members that may share. All of them have an answer after that, if there is no
    /// error, which is nobody's in particular.
    async fn attempt(&mut self, members: &mut [Member<'_, '_>], who: &[usize]) -> Result<()> {
        let Some(first) = who.first().map(|i| members[*i].request) else {
            return Ok(());
        };
        let merged = self.merge(&first.loras)?;
        for i in who {
            let member = &mut members[*i];
            let mut warnings = merged.clone();
            warnings.extend(self.warnings(member.request));
            member.begin(self.load_seconds, warnings);
        }
        // Before anything goes to the device.
        let refiner = self
            .refiner
            .as_ref()
            .map(|refiner| &refiner.model.checkpoint);
        let route = Route::new(first, &self.base.checkpoint, refiner)?;
        let told = self.told(members, who, &route).await?;
        let fits = |a: usize, b: usize| {
            let pair = told[a].as_ref().zip(told[b].as_ref());
            pair.is_some_and(|(a, b)| a.goes_with(b))
        };
        let parties = partition(&open(members, who), fits);
        for party in &parties {
            self.party(members, party, &told, &route).await?;
        }
        Ok(())
    }

    /// What the models are told of each member's texts, by its place; nothing where that
    /// failed, which is its answer.
    async fn told(
        &self,
        members: &mut [Member<'_, '_>],
        who: &[usize],
        route: &Route,
    ) -> Result<Vec<Option<Conditionings>>> {
        let mut told: Vec<Option<Conditionings>> = members.iter().map(|_| None).collect();
        for i in who {
            let member = &mut members[*i];
            let start = Instant::now();
            member.tell(Event::Encoding);
            match condition::encode(self, member.request, route, member.observer).await {
                Err(e) if e.is_out_of_memory() => return Err(e),
                Err(e) => member.answer = Some(Err(e)),
                Ok(mut made) => {
                    member.now.warnings.append(&mut made.warnings);
                    told[*i] = Some(made);
                }
            }
            member.now.seconds.encode = start.elapsed().as_secs_f64();
        }
        Ok(told)
    }
}

/// Pictures that members ask for.
pub(super) fn samples(members: &[Member<'_, '_>], who: &[usize]) -> usize {
    who.iter().map(|i| members[*i].request.samples).sum()
}

/// Gives `error` to the first of `who` that waits for an answer.
pub(super) fn answer_first(members: &mut [Member<'_, '_>], who: &[usize], error: Error) {
    if let Some(i) = open(members, who).first() {
        members[*i].answer = Some(Err(error));
    }
}
